//! Error codes: one table gives number, name, HTTP status and whether a retry can help.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The `code` of an answer: 0 for success, else one of the associated constants.
///
/// A number that this version does not know (from a newer server) is kept as it is; its name is `UNKNOWN_ERROR`
/// and its status follows from its thousand (4xxx: 400, else 500).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorCode(u16);

macro_rules! error_codes {
    ($($number:literal $name:ident $status:literal $retryable:literal $doc:literal;)*) => {
        impl ErrorCode {
            $(#[doc = $doc] pub const $name: Self = Self($number);)*

            /// Every code of the table, in its order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            const fn row(self) -> Option<(&'static str, u16, bool, &'static str)> {
                match self.0 {
                    $($number => Some((stringify!($name), $status, $retryable, $doc)),)*
                    _ => None,
                }
            }
        }
    };
}

error_codes! {
    0    SUCCESS 200 false "Success.";
    4000 INVALID_INPUT 400 false "A value is not allowed: out of range, unknown parameter, wrong shape.";
    4001 BUSINESS_FAILURE 400 false "The tool ran and says no: a rule of its own is broken.";
    4002 INVALID_REQUEST_FORMAT 400 false "Malformed body, or an unknown, ambiguous or unconfigured tool.";
    4003 MISSING_REQUIRED_FIELD 400 false "A required field or parameter is absent.";
    4004 INVALID_PARAMETER_TYPE 400 false "A field or parameter has another type than expected.";
    4005 INVALID_URL_FORMAT 400 false "A URL cannot be parsed or its scheme is not allowed.";
    4006 NO_RESULTS_FOUND 404 false "One named object is missing (an empty search is a success).";
    4007 RESOURCE_NOT_INITIALIZED 409 false "The call requires a session and the worker has none.";
    4009 CONFLICT 409 false "The request contradicts another one or the present state.";
    4010 SESSION_GONE 410 false "The session ended; `error.reason` says why.";
    4011 UNAUTHENTICATED 401 false "A token is needed and none or a wrong one came.";
    4013 PERMISSION_DENIED 403 false "The caller may not do this.";
    4014 NOT_FOUND 404 false "Route, session, file or document does not exist.";
    4015 METHOD_NOT_ALLOWED 405 false "The route exists, the method does not.";
    4016 PAYLOAD_TOO_LARGE 413 false "The body is larger than the server's limit.";
    4017 UNSUPPORTED_MEDIA_TYPE 415 false "The body's content type is not the one the route takes.";
    4029 RESOURCE_EXHAUSTED 429 true "A quota or capacity is used up; `Retry-After` says when to come again.";
    5000 EXECUTION_ERROR 500 false "The tool failed.";
    5002 API_KEY_NOT_CONFIGURED 500 false "The tool needs a key that the configuration does not have.";
    5003 API_REQUEST_FAILED 502 true "A service behind the tool could not be reached or refused.";
    5004 API_RESPONSE_PARSE_ERROR 502 false "A service behind the tool answered in an unexpected form.";
    5005 UNEXPECTED_ERROR 500 false "The tool panicked.";
    5006 TIMEOUT_ERROR 504 true "The time limit passed.";
    5007 CRAWLING_ERROR 502 true "A page could not be fetched or read.";
    5008 SUMMARIZATION_ERROR 502 true "The summarising model failed.";
    5009 ALL_REQUESTS_FAILED 500 false "No item of the batch succeeded.";
    5010 PARTIAL_FAILURE 207 false "Some items of the batch failed or were not run.";
    5011 BACKEND_NOT_INITIALIZED 503 true "The resource could not be started; it is tried again on the next use.";
    5012 DEPENDENCY_FAILURE 502 true "Something the tool depends on failed.";
    5013 INTERNAL_ERROR 500 false "A fault of the server itself.";
    5020 CANCELLED 499 false "The call was cancelled before its end.";
    5021 SHUTTING_DOWN 503 true "The server is draining and takes no new work.";
}

impl ErrorCode {
    /// The code with this number, whether the table knows it or not.
    pub const fn from_number(number: u16) -> Self {
        Self(number)
    }

    /// The number that travels as `code`.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The name that travels as `error.name`.
    pub const fn name(self) -> &'static str {
        match self.row() {
            Some(row) => row.0,
            None => "UNKNOWN_ERROR",
        }
    }

    /// The HTTP status of an answer with this code.
    pub const fn http_status(self) -> u16 {
        match self.row() {
            Some(row) => row.1,
            None if self.0 / 1000 == 4 => 400,
            None => 500,
        }
    }

    /// Whether the same request may succeed later without change.
    pub const fn retryable(self) -> bool {
        matches!(self.row(), Some((_, _, true, _)))
    }

    /// One sentence on what the code means.
    pub const fn description(self) -> &'static str {
        match self.row() {
            Some(row) => row.3,
            None => "A code this version does not know.",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn every_code_has_its_own_number_and_a_fitting_status() {
        let mut seen = std::collections::HashSet::new();
        for &code in ErrorCode::ALL {
            assert!(seen.insert(code.number()), "{code} stands twice");
            match code.number() {
                0 => assert_eq!(code.http_status(), 200),
                4000..=4999 => assert!((400..500).contains(&code.http_status()), "{code}"),
                5010 => assert_eq!(code.http_status(), 207),
                5020 => assert_eq!(code.http_status(), 499),
                _ => assert!((500..600).contains(&code.http_status()), "{code}"),
            }
        }
    }

    #[test]
    fn an_unknown_number_survives_a_round_trip() {
        let code: ErrorCode = serde_json::from_str("4999").expect("a number is a code");
        assert_eq!((code.number(), code.name(), code.http_status()), (4999, "UNKNOWN_ERROR", 400));
    }
}
