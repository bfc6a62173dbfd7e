"""Messages of failures that the test server does not produce."""

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from palettery.app.errors import StorageFailed, StorageFull
from palettery.app.storage.bucket_errors import is_transient, translate

ANSWER = (
    "Generic S3 error: Error performing PUT https://store.example/bucket/key in 1ms - Server "
    "returned non-2xx status code: {status}: <Error><Code>{code}</Code><Secret>s3cr3t</Secret>"
    "</Error>\n\nDebug source:\nGeneric s3cr3t"
)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("507 Insufficient Storage", "XMinioStorageFull"),
        ("507 Insufficient Storage", "Other"),
        ("403 Forbidden", "QuotaExceeded"),
    ],
)
def test_a_full_store_says_so(status, code):
    error = GenericError(ANSWER.format(status=status, code=code))
    assert isinstance(translate(error, "key", "s3://bucket"), StorageFull)


@pytest.mark.parametrize(
    ("scheme", "variable"),
    [("s3", "AWS_SECRET_ACCESS_KEY"), ("gs", "GOOGLE_"), ("az", "AZURE_STORAGE_ACCOUNT_KEY")],
)
def test_refused_or_missing_credentials_name_their_variables(scheme, variable):
    for error in (
        PermissionDeniedError(ANSWER.format(status="403 Forbidden", code="AccessDenied")),
        GenericError("Error performing PUT http://169.254.169.254/latest/api/token in 1ms"),
    ):
        failure = translate(error, "key", f"{scheme}://bucket/prefix")
        assert type(failure) is StorageFailed
        assert variable in str(failure)
        assert not is_transient(error)


def test_a_summary_holds_neither_addresses_nor_the_answer():
    error = GenericError(ANSWER.format(status="400 Bad Request", code="InvalidPart"))
    failure = str(translate(error, "key", "s3://bucket"))
    assert "key" in failure
    assert "400 Bad Request (InvalidPart)" in failure
    assert "s3cr3t" not in failure
    assert "store.example" not in failure


@pytest.mark.parametrize(
    ("status", "passing"),
    [("500", True), ("503", True), ("429", True), ("408", True), ("400", False), ("409", False)],
)
def test_only_what_may_pass_is_repeated(status, passing):
    assert is_transient(GenericError(ANSWER.format(status=status, code="Any"))) == passing


def test_a_broken_connection_is_repeated():
    assert is_transient(GenericError("Generic S3 error: HTTP error: error decoding response body"))
