"""Tests of wire_json."""
