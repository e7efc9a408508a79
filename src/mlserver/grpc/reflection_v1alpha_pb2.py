# Written by `make protos` from proto/grpc/reflection/v1alpha/reflection.proto: do not edit.
"""Messages of package `grpc.reflection.v1alpha`."""

from mlserver.grpc._define import define

DESCRIPTOR = define(
    globals(),
    b'\n(grpc/reflection/v1alpha/reflection.proto\x12\x17grpc.reflection.v1al'
    b'pha"\x8a\x02\n\x17ServerReflectionRequest\x12\x0c\n\x04host\x18\x01 \x01(\t\x12\x1a\n\x10file_by_filenam'
    b'e\x18\x03 \x01(\tH\x00\x12 \n\x16file_containing_symbol\x18\x04 \x01(\tH\x00\x12N\n\x19file_containing_e'
    b"xtension\x18\x05 \x01(\x0b2).grpc.reflection.v1alpha.ExtensionRequestH\x00\x12'\n\x1da"
    b'll_extension_numbers_of_type\x18\x06 \x01(\tH\x00\x12\x17\n\rlist_services\x18\x07 \x01(\tH\x00B\x11\n'
    b'\x0fmessage_request"E\n\x10ExtensionRequest\x12\x17\n\x0fcontaining_type\x18\x01 \x01(\t\x12\x18\n'
    b'\x10extension_number\x18\x02 \x01(\x05"\xd1\x03\n\x18ServerReflectionResponse\x12\x12\n\nvalid_ho'
    b'st\x18\x01 \x01(\t\x12J\n\x10original_request\x18\x02 \x01(\x0b20.grpc.reflection.v1alpha.Ser'
    b'verReflectionRequest\x12S\n\x18file_descriptor_response\x18\x04 \x01(\x0b2/.grpc.re'
    b'flection.v1alpha.FileDescriptorResponseH\x00\x12Z\n\x1eall_extension_numbe'
    b'rs_response\x18\x05 \x01(\x0b20.grpc.reflection.v1alpha.ExtensionNumberRespo'
    b'nseH\x00\x12N\n\x16list_services_response\x18\x06 \x01(\x0b2,.grpc.reflection.v1alpha.'
    b'ListServiceResponseH\x00\x12@\n\x0eerror_response\x18\x07 \x01(\x0b2&.grpc.reflection.'
    b'v1alpha.ErrorResponseH\x00B\x12\n\x10message_response"7\n\x16FileDescriptorRes'
    b'ponse\x12\x1d\n\x15file_descriptor_proto\x18\x01 \x03(\x0c"K\n\x17ExtensionNumberResponse\x12'
    b'\x16\n\x0ebase_type_name\x18\x01 \x01(\t\x12\x18\n\x10extension_number\x18\x02 \x03(\x05"P\n\x13ListService'
    b'Response\x129\n\x07service\x18\x01 \x03(\x0b2(.grpc.reflection.v1alpha.ServiceRespo'
    b'nse"\x1f\n\x0fServiceResponse\x12\x0c\n\x04name\x18\x01 \x01(\t":\n\rErrorResponse\x12\x12\n\nerror_c'
    b'ode\x18\x01 \x01(\x05\x12\x15\n\rerror_message\x18\x02 \x01(\t2\x96\x01\n\x10ServerReflection\x12\x81\x01\n\x14Server'
    b'ReflectionInfo\x120.grpc.reflection.v1alpha.ServerReflectionRequest'
    b'\x1a1.grpc.reflection.v1alpha.ServerReflectionResponse"\x00(\x010\x01b\x06proto'
    b'3',
)
