# Written by `make protos` from proto/grpc/health/v1/health.proto: do not edit.
"""Messages of package `grpc.health.v1`."""

from mlserver.grpc._define import define

DESCRIPTOR = define(
    globals(),
    b'\n\x1bgrpc/health/v1/health.proto\x12\x0egrpc.health.v1"%\n\x12HealthCheckRequ'
    b'est\x12\x0f\n\x07service\x18\x01 \x01(\t"\xa9\x01\n\x13HealthCheckResponse\x12A\n\x06status\x18\x01 \x01(\x0e21.g'
    b'rpc.health.v1.HealthCheckResponse.ServingStatus"O\n\rServingStatus'
    b'\x12\x0b\n\x07UNKNOWN\x10\x00\x12\x0b\n\x07SERVING\x10\x01\x12\x0f\n\x0bNOT_SERVING\x10\x02\x12\x13\n\x0fSERVICE_UNKNOWN\x10\x03'
    b'2\xb2\x01\n\x06Health\x12R\n\x05Check\x12".grpc.health.v1.HealthCheckRequest\x1a#.grpc.'
    b'health.v1.HealthCheckResponse"\x00\x12T\n\x05Watch\x12".grpc.health.v1.Health'
    b'CheckRequest\x1a#.grpc.health.v1.HealthCheckResponse"\x000\x01b\x06proto3',
)
