"""gRPC: messages and stubs of the V2 protocol (`dataplane_pb2`, ...), and their conversion to our types."""
