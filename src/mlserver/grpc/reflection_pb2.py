# Written by `make protos` from proto/grpc/reflection/v1/reflection.proto: do not edit.
"""Messages of package `grpc.reflection.v1`."""

from mlserver.grpc._define import define

DESCRIPTOR = define(
    globals(),
    b'\n#grpc/reflection/v1/reflection.proto\x12\x12grpc.reflection.v1"\x85\x02\n\x17Se'
    b'rverReflectionRequest\x12\x0c\n\x04host\x18\x01 \x01(\t\x12\x1a\n\x10file_by_filename\x18\x03 \x01(\tH\x00\x12'
    b' \n\x16file_containing_symbol\x18\x04 \x01(\tH\x00\x12I\n\x19file_containing_extension\x18\x05'
    b" \x01(\x0b2$.grpc.reflection.v1.ExtensionRequestH\x00\x12'\n\x1dall_extension_nu"
    b'mbers_of_type\x18\x06 \x01(\tH\x00\x12\x17\n\rlist_services\x18\x07 \x01(\tH\x00B\x11\n\x0fmessage_reques'
    b't"E\n\x10ExtensionRequest\x12\x17\n\x0fcontaining_type\x18\x01 \x01(\t\x12\x18\n\x10extension_numb'
    b'er\x18\x02 \x01(\x05"\xb8\x03\n\x18ServerReflectionResponse\x12\x12\n\nvalid_host\x18\x01 \x01(\t\x12E\n\x10ori'
    b'ginal_request\x18\x02 \x01(\x0b2+.grpc.reflection.v1.ServerReflectionRequest'
    b'\x12N\n\x18file_descriptor_response\x18\x04 \x01(\x0b2*.grpc.reflection.v1.FileDesc'
    b'riptorResponseH\x00\x12U\n\x1eall_extension_numbers_response\x18\x05 \x01(\x0b2+.grpc.'
    b'reflection.v1.ExtensionNumberResponseH\x00\x12I\n\x16list_services_respons'
    b"e\x18\x06 \x01(\x0b2'.grpc.reflection.v1.ListServiceResponseH\x00\x12;\n\x0eerror_resp"
    b'onse\x18\x07 \x01(\x0b2!.grpc.reflection.v1.ErrorResponseH\x00B\x12\n\x10message_respo'
    b'nse"7\n\x16FileDescriptorResponse\x12\x1d\n\x15file_descriptor_proto\x18\x01 \x03(\x0c"K\n\x17'
    b'ExtensionNumberResponse\x12\x16\n\x0ebase_type_name\x18\x01 \x01(\t\x12\x18\n\x10extension_num'
    b'ber\x18\x02 \x03(\x05"K\n\x13ListServiceResponse\x124\n\x07service\x18\x01 \x03(\x0b2#.grpc.reflect'
    b'ion.v1.ServiceResponse"\x1f\n\x0fServiceResponse\x12\x0c\n\x04name\x18\x01 \x01(\t":\n\rError'
    b'Response\x12\x12\n\nerror_code\x18\x01 \x01(\x05\x12\x15\n\rerror_message\x18\x02 \x01(\t2\x8b\x01\n\x10ServerRe'
    b'flection\x12w\n\x14ServerReflectionInfo\x12+.grpc.reflection.v1.ServerRefl'
    b'ectionRequest\x1a,.grpc.reflection.v1.ServerReflectionResponse"\x00(\x010'
    b'\x01b\x06proto3',
)
