"""The version of this server; also what `/v2` reports unless `server_version` is set."""

__version__ = "1.8.0"
