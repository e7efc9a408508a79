# Written by `make protos` from proto/model_repository.proto: do not edit.
"""Messages of package `inference.model_repository`."""

from mlserver.grpc._define import define

DESCRIPTOR = define(
    globals(),
    b'\n\x16model_repository.proto\x12\x1ainference.model_repository"@\n\x16Reposito'
    b'ryIndexRequest\x12\x17\n\x0frepository_name\x18\x01 \x01(\t\x12\r\n\x05ready\x18\x02 \x01(\x08"\xb5\x01\n\x17Repos'
    b'itoryIndexResponse\x12N\n\x06models\x18\x01 \x03(\x0b2>.inference.model_repository.'
    b'RepositoryIndexResponse.ModelIndex\x1aJ\n\nModelIndex\x12\x0c\n\x04name\x18\x01 \x01(\t\x12\x0f'
    b'\n\x07version\x18\x02 \x01(\t\x12\r\n\x05state\x18\x03 \x01(\t\x12\x0e\n\x06reason\x18\x04 \x01(\t"I\n\x1aRepositoryMode'
    b'lLoadRequest\x12\x17\n\x0frepository_name\x18\x01 \x01(\t\x12\x12\n\nmodel_name\x18\x02 \x01(\t"\x1d\n\x1bRep'
    b'ositoryModelLoadResponse"K\n\x1cRepositoryModelUnloadRequest\x12\x17\n\x0frepo'
    b'sitory_name\x18\x01 \x01(\t\x12\x12\n\nmodel_name\x18\x02 \x01(\t"\x1f\n\x1dRepositoryModelUnloadRe'
    b'sponse2\xb2\x03\n\x16ModelRepositoryService\x12|\n\x0fRepositoryIndex\x122.inference'
    b'.model_repository.RepositoryIndexRequest\x1a3.inference.model_repos'
    b'itory.RepositoryIndexResponse"\x00\x12\x88\x01\n\x13RepositoryModelLoad\x126.infere'
    b'nce.model_repository.RepositoryModelLoadRequest\x1a7.inference.mode'
    b'l_repository.RepositoryModelLoadResponse"\x00\x12\x8e\x01\n\x15RepositoryModelUn'
    b'load\x128.inference.model_repository.RepositoryModelUnloadRequest\x1a9'
    b'.inference.model_repository.RepositoryModelUnloadResponse"\x00b\x06pro'
    b'to3',
)
