//! Which sessions are meant: one, several, or all, and what they are made with.

use std::collections::{BTreeMap, HashMap};

use sandbox_types::{CreateSession, CreatedSession, WorkerId};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{ClientError, Result};

/// Name of the session of those who name none.
const DEFAULT: &str = "default";

/// A session to be made.
///
/// ```
/// use sandbox_client::NewSession;
///
/// let large = NewSession::of("bash").config(serde_json::json!({ "memory_mib": 1024 }))?.ttl_seconds(3600.0);
/// # Ok::<(), sandbox_client::ClientError>(())
/// ```
#[derive(Clone, Debug)]
pub struct NewSession {
    pub(crate) name: SessionName,
    config: Map<String, Value>,
    custom_name: Option<String>,
    ttl_seconds: Option<f64>,
}

impl NewSession {
    /// The default session of a resource, such as `vm`, or one by name, `vm/second`.
    pub fn of(resource: &str) -> Self {
        Self { name: SessionName::parse(resource), config: Map::new(), custom_name: None, ttl_seconds: None }
    }

    /// What the backend's `initialize` gets.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when it is no JSON object.
    pub fn config(mut self, config: impl Serialize) -> Result<Self> {
        self.config = match serde_json::to_value(config) {
            Ok(Value::Object(object)) => object,
            Ok(Value::Null) => Map::new(),
            Ok(other) => {
                let message = format!("the configuration of a session: expected a JSON object, found `{other}`");
                return Err(ClientError::Invalid(message));
            }
            Err(error) => {
                return Err(ClientError::Invalid(format!("the configuration of a session is not JSON: {error}")));
            }
        };
        Ok(self)
    }

    /// A label inside the name that people see.
    pub fn custom_name(mut self, name: impl Into<String>) -> Self {
        self.custom_name = Some(name.into());
        self
    }

    /// How long the session may be idle before it is destroyed, in seconds, instead of the resource's `session_ttl`.
    pub fn ttl_seconds(mut self, seconds: f64) -> Self {
        self.ttl_seconds = Some(seconds);
        self
    }

    pub(crate) fn request(self, worker: WorkerId) -> CreateSession {
        CreateSession {
            worker_id: worker,
            resource_type: self.name.resource,
            session: Some(self.name.session),
            session_config: self.config,
            custom_name: self.custom_name,
            ttl_seconds: self.ttl_seconds,
        }
    }
}

impl From<&str> for NewSession {
    fn from(resource: &str) -> Self {
        Self::of(resource)
    }
}

/// A session by resource and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionName {
    pub(crate) resource: String,
    pub(crate) session: String,
}

impl SessionName {
    pub(crate) fn parse(text: &str) -> Self {
        let (resource, session) = text.split_once('/').unwrap_or((text, DEFAULT));
        Self { resource: resource.to_owned(), session: session.to_owned() }
    }

    /// The one that a call of a tool means.
    pub(crate) fn of_call(action: &str, session: Option<&str>) -> Option<Self> {
        let (resource, _) = action.split_once([':', '.']).or_else(|| action.split_once("__"))?;
        Some(Self { resource: resource.to_owned(), session: session.unwrap_or(DEFAULT).to_owned() })
    }

    /// As the server labels it.
    pub(crate) fn label(&self) -> String {
        if self.session == DEFAULT { self.resource.clone() } else { format!("{}/{}", self.resource, self.session) }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What [`Sandbox::create_session`](crate::Sandbox::create_session) takes: the name of a resource, a [`NewSession`], several
/// names, or a map from resources to configurations. Several are made at once.
pub trait Sessions: sealed::Sealed {
    /// What comes of it: one session, as many as were asked for, or a map from the same names.
    type Created;

    #[doc(hidden)]
    fn wanted(self) -> Result<Vec<NewSession>>;

    #[doc(hidden)]
    fn created(names: Vec<String>, sessions: Vec<CreatedSession>) -> Self::Created;
}

macro_rules! one {
    ($($one:ty)*) => {
        $(impl sealed::Sealed for $one {}

        impl Sessions for $one {
            type Created = CreatedSession;

            fn wanted(self) -> Result<Vec<NewSession>> {
                Ok(vec![self.into()])
            }

            fn created(_: Vec<String>, mut sessions: Vec<CreatedSession>) -> CreatedSession {
                // One was wanted, and all that were wanted are there.
                sessions.remove(0)
            }
        })*
    };
}

one! { &str NewSession }

macro_rules! several {
    ($([$($of:tt)*] $several:ty)*) => {
        $(impl<$($of)*> sealed::Sealed for $several {}

        impl<$($of)*> Sessions for $several {
            type Created = Vec<CreatedSession>;

            fn wanted(self) -> Result<Vec<NewSession>> {
                Ok(self.into_iter().map(|one| NewSession::of(one.as_ref())).collect())
            }

            fn created(_: Vec<String>, sessions: Vec<CreatedSession>) -> Vec<CreatedSession> {
                sessions
            }
        })*
    };
}

several! { [T: AsRef<str>, const N: usize] [T; N]  [T: AsRef<str>] Vec<T>  [T: AsRef<str>] &[T] }

macro_rules! map {
    ($([$($hasher:ident)?] $map:ident)*) => {
        $(impl<K: AsRef<str>, V: Serialize $(, $hasher)?> sealed::Sealed for $map<K, V $(, $hasher)?> {}

        impl<K: AsRef<str>, V: Serialize $(, $hasher)?> Sessions for $map<K, V $(, $hasher)?> {
            type Created = BTreeMap<String, CreatedSession>;

            fn wanted(self) -> Result<Vec<NewSession>> {
                self.into_iter().map(|(name, config)| NewSession::of(name.as_ref()).config(config)).collect()
            }

            fn created(names: Vec<String>, sessions: Vec<CreatedSession>) -> BTreeMap<String, CreatedSession> {
                names.into_iter().zip(sessions).collect()
            }
        })*
    };
}

map! { [] BTreeMap  [H] HashMap }

/// Which sessions are meant: `"vm"`, `"vm/second"`, several of these, or [`All`](Self::All).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Which {
    /// These.
    These(Vec<String>),
    /// Every one that the worker has.
    All,
}

impl From<&str> for Which {
    fn from(one: &str) -> Self {
        Self::These(vec![one.to_owned()])
    }
}

impl<T: AsRef<str>> From<&[T]> for Which {
    fn from(several: &[T]) -> Self {
        Self::These(several.iter().map(|one| one.as_ref().to_owned()).collect())
    }
}

impl<T: AsRef<str>, const N: usize> From<[T; N]> for Which {
    fn from(several: [T; N]) -> Self {
        Self::from(several.as_slice())
    }
}

impl<T: AsRef<str>> From<Vec<T>> for Which {
    fn from(several: Vec<T>) -> Self {
        Self::from(several.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::{NewSession, SessionName};

    #[test]
    fn calls_and_names_mean_sessions() {
        let of = |resource: &str, session: &str| SessionName { resource: resource.into(), session: session.into() };
        assert_eq!(SessionName::parse("vm"), of("vm", "default"));
        assert_eq!(SessionName::parse("vm/a/b"), of("vm", "a/b"));
        assert_eq!(SessionName::of_call("vm:click", None), Some(of("vm", "default")));
        assert_eq!(SessionName::of_call("vm__click", Some("x")), Some(of("vm", "x")));
        assert_eq!(SessionName::of_call("vm.click", None), Some(of("vm", "default")));
        assert_eq!(SessionName::of_call("click", None), None);
        assert_eq!((of("vm", "default").label(), of("vm", "x").label()), ("vm".into(), "vm/x".into()));
        let error = NewSession::of("vm").config([1]).expect_err("no object").to_string();
        assert!(error.contains("expected a JSON object, found `[1]`"), "{error}");
        assert!(NewSession::of("vm").config(()).is_ok());
    }
}
