"""The codes of AWS's errors: one table for the services' error codes, one for the SDK's exceptions."""

from __future__ import annotations

from botocore import exceptions as sdk
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from fsd_core.driver import Code
from fsd_core.providers.advice import CLOCK, PROXY, advise
from fsd_core.providers.codes import Codes, http_code

__all__ = ["advice", "classify", "entry_code", "status"]

_NAMES = {
    Code.THROTTLED: """Throttling ThrottlingException Throttled ThrottledException RequestThrottled RequestThrottledException
        RequestLimitExceeded TooManyRequestsException TooManyRequests SlowDown BandwidthLimitExceeded LimitExceededException
        ProvisionedThroughputExceededException OverLimit EC2ThrottledException KMS.ThrottlingException KMSThrottling
        KMSThrottlingException PriorRequestNotComplete ReservedFunctionConcurrentInvocationLimitExceeded
        ConcurrentInvocationLimitExceeded TopicLimitExceeded SubscriptionLimitExceeded FilterPolicyLimitExceeded""",
    Code.NOT_FOUND: """NoSuchKey NoSuchBucket NoSuchUpload NotFound NotFoundException NoSuchEntity NoSuchEntityException
        QueueDoesNotExist AWS.SimpleQueueService.NonExistentQueue NonExistentQueue ResourceNotFound ResourceNotFoundException
        TopicNotFound NoSuchLifecycleConfiguration NoSuchTagSet NoSuchBucketPolicy NoSuchPublicAccessBlockConfiguration
        ServerSideEncryptionConfigurationNotFoundError""",
    Code.ALREADY_EXISTS: """PreconditionFailed BucketAlreadyExists BucketAlreadyOwnedByYou EntityAlreadyExists
        ResourceAlreadyExistsException QueueAlreadyExists QueueNameExists
        BucketNotEmpty""",  # PreconditionFailed: a PutObject with If-None-Match of a key that exists
    Code.DENIED: """ExpiredToken ExpiredTokenException TokenRefreshRequired InvalidClientTokenId InvalidAccessKeyId InvalidToken
        UnrecognizedClientException SignatureDoesNotMatch InvalidSignatureException RequestTimeTooSkewed RequestExpired
        MissingAuthenticationToken MissingAuthenticationTokenException NotAuthorized AuthorizationError AuthorizationErrorException
        AuthFailure AuthorizationHeaderMalformed IncompleteSignature OptInRequired NotSignedUp AllAccessDisabled AccountProblem
        KMSAccessDenied KMSOptInRequired KMSAccessDeniedException KMS.AccessDeniedException KMS.OptInRequired Forbidden""",
    Code.UNAVAILABLE: """ConditionalRequestConflict OperationAborted InternalError InternalFailure InternalErrorException
        InternalServerError ServiceUnavailable ServiceUnavailableException ServiceException RequestTimeout
        RequestTimeoutException EC2UnexpectedException ENILimitReachedException EFSIOException ResourceConflictException
        ResourceNotReadyException KMSInternalException IncompleteBody TemporaryRedirect
        QueueDeletedRecently AWS.SimpleQueueService.QueueDeletedRecently""",  # 409 to PutObject with If-None-Match means: try again
    Code.TOO_LARGE: """EntityTooLarge MaxMessageLengthExceeded BatchRequestTooLong TooManyEntriesInBatchRequest
        AWS.SimpleQueueService.BatchRequestTooLong AWS.SimpleQueueService.TooManyEntriesInBatchRequest RequestTooLargeException
        RequestEntityTooLargeException BatchRequestTooLongException TooManyEntriesInBatchRequestException KeyTooLongError
        CodeStorageExceededException""",
    Code.INVALID: """InvalidParameter InvalidParameterException InvalidParameterValue InvalidParameterValueException
        InvalidParameterCombination ParameterValueInvalid ValidationError ValidationException MalformedXML InvalidArgument
        InvalidRequest InvalidRequestContentException InvalidBucketName InvalidRange InvalidDigest BadDigest MissingParameter
        InvalidMessageContents InvalidAttributeName InvalidAttributeValue InvalidAddress InvalidSecurity UnsupportedOperation
        ReceiptHandleIsInvalid EmptyBatchRequest EmptyBatchRequestException BatchEntryIdsNotDistinct
        BatchEntryIdsNotDistinctException InvalidBatchEntryId InvalidBatchEntryIdException PermanentRedirect
        IllegalLocationConstraintException
        DeleteConflict MethodNotAllowed MalformedPolicy MalformedPolicyDocument KMSDisabled KMSDisabledException KMSInvalidState
        KMSInvalidStateException KMSNotFound KMSNotFoundException""",
}
_EXCEPTIONS = (  # the first match counts
    ((sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.CredentialRetrievalError, sdk.NoAuthTokenError), Code.DENIED),
    ((sdk.TokenRetrievalError, sdk.SSOError, sdk.ProfileNotFound, sdk.UnauthorizedSSOTokenError), Code.DENIED),
    ((sdk.HTTPClientError, sdk.ConnectionError, sdk.IncompleteReadError, sdk.ResponseStreamingError), Code.UNAVAILABLE),
    ((sdk.ChecksumError, sdk.FlexibleChecksumError), Code.UNAVAILABLE),  # the body was damaged in transit: another attempt may work
    ((sdk.ParamValidationError, sdk.NoRegionError, sdk.ValidationError, sdk.InvalidRegionError), Code.INVALID),
    (sdk.EndpointResolutionError, Code.INVALID),
    ((ConnectionError, TimeoutError, ResponseParserError, sdk.MetadataRetrievalError), Code.UNAVAILABLE),
)
_CODES = Codes(_NAMES, _EXCEPTIONS)


def entry_code(name: str, sender_fault: bool = False, status: int = 0) -> Code:
    """The `Code` for an error code of a service, which refused a whole call or one entry of a batch.

    ``sender_fault``: the entry's field SenderFault; ``status``: the HTTP status of a call. Both matter for unknown error codes only.
    """
    name = name.partition(":")[0]
    if code := _CODES.word(name):
        return code
    if "AccessDenied" in name:
        return Code.DENIED
    if "Throttl" in name:
        return Code.THROTTLED
    return Code.INVALID if sender_fault else http_code(status)


def classify(error: BaseException) -> Code:
    """The `Code` of an error that a driver of this provider raised; UNKNOWN for any other exception."""
    if isinstance(error, ClientError):
        return entry_code(str(error.response.get("Error", {}).get("Code", "")), status=status(error))
    return _CODES.error(error)


def status(error: BaseException) -> int:
    """The HTTP status of an answer that the SDK raised as ``error``; 0 for any other exception."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if isinstance(error, ClientError) else 0


_ADVICE = (  # a pattern of an error's text, and what to do; the first match counts
    (
        r"NoCredentialsError",
        "no AWS credentials are found: run 'aws configure' or 'aws sso login', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (r"PartialCredentialsError", "a key id needs its secret: set both in the same place, or run 'aws configure' again"),
    (r"SSOTokenLoadError", "no SSO session is active: run 'aws sso login'"),
    (r"CredentialRetrievalError", "the source of the AWS credentials gives none: repair it, or use another source"),
    (
        r"InvalidConfigError|ConfigParseError|ConfigNotFound|UnknownCredentialError|InfiniteLoopConfigError",
        "repair the file of AWS_CONFIG_FILE (~/.aws/config) or AWS_SHARED_CREDENTIALS_FILE (~/.aws/credentials)",
    ),
    (r"ProxyConnectionError", PROXY),
    (
        r"ProfileNotFound",
        "AWS_PROFILE names a profile that 'aws configure list-profiles' does not list: set another, or unset it",
    ),
    (
        r"ExpiredToken(Exception)?|TokenRefreshRequired|RequestExpired|TokenRetrievalError|\w*SSOToken\w*",
        "the AWS credentials expired: get new ones ('aws sso login', or the way you got these) and run again",
    ),
    (r"RequestTimeTooSkewed|Signature expired|Signature not yet current", CLOCK),
    (
        r"InvalidClientTokenId|InvalidAccessKeyId|UnrecognizedClientException|InvalidToken",
        "AWS does not know these credentials: check them with 'aws sts get-caller-identity'",
    ),
    (r"SignatureDoesNotMatch|InvalidSignatureException", "the secret key does not belong to the access key id: copy both again"),
    (
        r"NoRegionError|InvalidRegionError",
        "no AWS region is set, or AWS has no region of that name: set [aws] region in fsd.toml, or AWS_REGION",
    ),
    (
        r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraintException",
        "the bucket is in another region: set [aws] region to the one that the app was deployed in",
    ),
    (
        r"AccessDenied\w*|AuthorizationError\w*|NotAuthorized|Forbidden",
        "the credentials lack a permission: docs/how-to-aws.md lists the permissions; a change becomes active within a minute",
    ),
    (
        r"NoSuchBucket|QueueDoesNotExist|NonExistentQueue|NotFound|NotFoundException|ResourceNotFoundException",
        "a resource of the app is gone, or in another region or account: run 'fsd destroy', then 'fsd deploy --provider aws'",
    ),
    (
        r"DeleteConflict",
        "remove the policies that somebody else gave the role ('aws iam list-role-policies' and 'list-attached-role-policies' name them), "
        "then run 'fsd destroy' again",
    ),
    (
        r"EndpointConnectionError|ConnectTimeoutError",
        "the service cannot be reached: check the network, [aws] region, and for an emulator AWS_ENDPOINT_URL",
    ),
)


def advice(error: BaseException | str) -> str | None:
    """One line on what a person can do about an error of AWS, or None without advice: see `fsd_core.providers.advice.advise`."""
    return advise(_ADVICE, error)
