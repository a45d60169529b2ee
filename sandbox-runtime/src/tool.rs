//! `Tool`: one function that a client can call, and `Call`: one call of it.

use std::{future::Future, marker::PhantomData, pin::Pin, sync::Arc, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    backend::{Backend, Location},
    bytes::{ByteStream, Content},
    context::ToolContext,
    error::{Result, ToolError},
    hold::{Exclusive, HeldSession},
    scope::CallScope,
};
use sandbox_types::ErrorCode;

/// What a tool's run comes to.
pub type ToolFuture = Pin<Box<dyn Future<Output = Result<Output>> + Send>>;

/// A tool's result.
pub enum Output {
    /// JSON, serialised once.
    Json(Box<RawValue>),
    /// Bytes, which go beside the JSON where the client takes them so.
    Bytes(Box<ByteStream>),
}

/// One function that a client can call.
///
/// `#[tool]` writes these; by hand, start from [`Tool::new`].
pub struct Tool<B: Backend> {
    /// Simple name: `[a-z][a-z0-9_]*` without `__`.
    pub name: &'static str,
    /// What it does, for models and people.
    pub description: &'static str,
    /// Other simple names it answers to.
    pub aliases: &'static [&'static str],
    /// Group that a configuration can choose.
    pub group: Option<&'static str>,
    /// Left out of listings.
    pub hidden: bool,
    /// Calling twice does what calling once does.
    pub idempotent: bool,
    /// Changes nothing.
    pub read_only: bool,
    /// Time limit, from the moment the method is entered, for requests that name none.
    pub timeout: Option<Duration>,
    /// Its body is synchronous and runs on the blocking pool, through [`CallScope::block`]. It must say so: the thread is
    /// then had before the method is entered, and a refusal leaves the session whole.
    pub blocking: bool,
    /// How it uses the session.
    pub session: SessionUse,
    /// JSON Schema of the parameters.
    pub input_schema: fn(&mut SchemaGenerator) -> Schema,
    /// JSON Schema of the result.
    pub output_schema: fn(&mut SchemaGenerator) -> Schema,
    /// Defaults of parameters, as the JSON that the caller would have sent.
    pub defaults: &'static [ParameterDefault],
    /// Runs one call.
    pub run: fn(Call<B>) -> ToolFuture,
    /// Where it stands in the source.
    pub location: Location,
}

/// The default of one parameter.
#[derive(Clone, Copy)]
pub struct ParameterDefault {
    /// Name of the parameter on the wire.
    pub parameter: &'static str,
    /// The JSON that the caller would have sent.
    pub json: &'static str,
    /// Parses the JSON as the parameter's type.
    pub check: fn(&str) -> Result<(), String>,
}

impl ParameterDefault {
    /// A default that must parse as `T`.
    pub const fn of<T: DeserializeOwned>(parameter: &'static str, json: &'static str) -> Self {
        Self {
            parameter,
            json,
            check: |json| serde_json::from_str::<T>(json).map(drop).map_err(|error| error.to_string()),
        }
    }
}

/// The rule for arguments by value under several names, each with its own words: which one `#[tool]` asks depends on
/// how the type is spelled, what it answers does not.
macro_rules! by_value {
    ($($(#[$attribute:meta])* $name:ident $(<$other:ident>)?;)*) => {$(
        $(#[$attribute])*
        pub trait $name<$($other,)? Marker>: Sized {
            /// The type itself.
            type Value;

            /// The value itself.
            fn sent(value: Self::Value) -> Self;
        }

        impl<T: DeserializeOwned + JsonSchema $(, $other)?> $name<$($other,)? Sent> for T {
            type Value = T;

            fn sent(value: T) -> T {
                value
            }
        }

        // Never holds: where there is a choice, the compiler speaks of this trait and not of each bound of the other.
        impl<T: Nobody $(, $other)?> $name<$($other,)? Unsent> for T {
            type Value = T;

            fn sent(value: T) -> T {
                value
            }
        }
    )*};
}

by_value! {
    /// A type that the client can send; `Marker` is inferred.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` cannot be a parameter: the client sends it as JSON",
        label = "expected a type with `Deserialize` and `JsonSchema`; derive both",
        note = "by value = a parameter that the client sends; what the runtime injects is borrowed by `&`",
        note = "a type of another crate: switch its features for serde and schemars on, or wrap it in a type of yours"
    )]
    Parameter;

    /// [`Parameter`], for a type spelled as what `initialize` returns.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is the session, the client cannot send it",
        label = "borrow it: `&{Self}`, or `&mut {Self}` to be alone on it",
        note = "by value = a parameter that the client sends; by reference = injected by the runtime"
    )]
    SessionByValue;

    /// [`Parameter`], for a type spelled as what `warmup` returns, or an `Arc` of it.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is the shared state, the client cannot send it",
        label = "borrow it: `&{Shared}`",
        note = "by value = a parameter that the client sends; by reference = injected by the runtime"
    )]
    SharedByValue<Shared>;

    /// [`Parameter`], for a type spelled as one that the runtime injects.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is injected, the client cannot send it",
        label = "write `&` before it",
        note = "by value = a parameter that the client sends; by reference = injected by the runtime"
    )]
    InjectedByValue;
}

/// Marker: the client sends it.
pub enum Sent {}
/// Marker: of no type.
pub enum Unsent {}
/// Of no type.
pub trait Nobody {}

/// The schema of a struct of parameters; under a derive that failed, and said why, [`NoSchema`] has it.
pub struct SchemaOf<P>(PhantomData<P>);

impl<P: JsonSchema> SchemaOf<P> {
    /// The schema.
    pub const JSON: fn(&mut SchemaGenerator) -> Schema = P::json_schema;
}

/// Keeps the mistake of a derive from being two.
pub trait NoSchema {
    /// Of no program that compiles.
    const JSON: fn(&mut SchemaGenerator) -> Schema = |_| Schema::default();
}

impl<P> NoSchema for SchemaOf<P> {}

/// How a tool uses its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionUse {
    /// Not at all.
    None,
    /// In parallel with other readers (`&Session`).
    Shared,
    /// Alone (`&mut Session`).
    Exclusive,
}

impl<B: Backend> Tool<B> {
    /// A tool with parameters `P` and result `R`; of one that returns a [`ByteStream`], `R` is
    /// [`Content`].
    pub const fn new<P, R>(
        name: &'static str,
        description: &'static str,
        session: SessionUse,
        run: fn(Call<B>) -> ToolFuture,
        location: Location,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema,
        R: JsonSchema,
    {
        Self {
            name,
            description,
            aliases: &[],
            group: None,
            hidden: false,
            idempotent: false,
            read_only: false,
            timeout: None,
            blocking: false,
            session,
            input_schema: P::json_schema,
            output_schema: R::json_schema,
            defaults: &[],
            run,
            location,
        }
    }
}

/// One call of a tool, owned, so that its future is `'static` and `Send`.
pub struct Call<B: Backend> {
    pub(crate) backend: Arc<B>,
    pub(crate) shared: Arc<B::Shared>,
    pub(crate) params: Value,
    pub(crate) context: ToolContext,
    pub(crate) session: Option<HeldSession<B::Session>>,
    // Last: `shutdown` waits for it, and must then find `shared` free.
    pub(crate) token: TaskTrackerToken,
}

impl<B: Backend> Call<B> {
    /// Takes the parameters; defaults are filled in and the schema holds already.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_INPUT`] when the type refuses what its schema allows.
    pub fn params<P: DeserializeOwned>(&self) -> Result<P> {
        match self.context.transfer() {
            Some(transfer) => transfer.parse(&self.params),
            None => crate::schema::parse(&self.params),
        }
    }

    /// Enters the method of a tool that uses no session or shares it; waits for the session where needed.
    ///
    /// # Errors
    /// The session ended meanwhile, too many calls wait for it, or waiting could deadlock.
    pub async fn enter(self, session: SessionUse) -> Result<CallScope<B>> {
        // The token stays in `self`, which is dropped last also when this ends early: `shutdown` must find `shared` free.
        let Self { backend, shared, params: _, mut context, session: held, .. } = self;
        let (guard, turn) = match (session, held) {
            (SessionUse::None, _) => (None, context.turn().await?),
            (SessionUse::Shared, Some(held)) => {
                let (guard, turn) = held.share(&mut context).await?;
                (Some(guard), turn)
            }
            (SessionUse::Shared, None) => return Err(no_session()),
            (SessionUse::Exclusive, _) => {
                return Err(ToolError::new(
                    ErrorCode::INTERNAL_ERROR,
                    "an exclusive tool was entered without its session",
                ));
            }
        };
        let thread = context.thread().await?;
        let turn = context.hand_over(turn, &self.token);
        context.mark_entered();
        Ok(CallScope { guard, _turn: turn, thread, backend, shared, context, _token: self.token })
    }

    /// Enters the method of a tool that has the session to itself; waits for it.
    ///
    /// # Errors
    /// The session ended meanwhile, too many calls wait for it, or waiting could deadlock.
    pub async fn enter_exclusive(self) -> Result<(CallScope<B>, Exclusive<B::Session>)> {
        let Self { backend, shared, params: _, mut context, session: held, .. } = self;
        let Some(held) = held else { return Err(no_session()) };
        let (mut exclusive, turn) = held.exclude(&mut context).await?;
        let thread = context.thread().await?;
        let turn = context.hand_over(turn, &self.token);
        context.mark_entered();
        exclusive.enter();
        Ok((CallScope { guard: None, _turn: turn, thread, backend, shared, context, _token: self.token }, exclusive))
    }
}

fn no_session() -> ToolError {
    ToolError::new(ErrorCode::INTERNAL_ERROR, "a tool that uses a session was called without one")
}

/// What a tool may return: `Result<T, E>` with `T: Serialize + JsonSchema`, or `T` a [`ByteStream`], and `E: Into<ToolError>`.
#[diagnostic::on_unimplemented(
    message = "a tool cannot return `{Self}`",
    label = "expected `Result<T>` with `T: Serialize + JsonSchema`",
    note = "return `Result<T>`, or `Result<T, E>` with `E: Into<ToolError>`; derive `Serialize` and `JsonSchema` for `T`"
)]
pub trait ToolResult {
    /// What is serialised.
    type Value: Serialize + JsonSchema;

    /// The value as JSON, or as the bytes that it is, or the failure.
    ///
    /// # Errors
    /// What the tool answered, or [`ErrorCode::INTERNAL_ERROR`] when its value cannot be written as JSON.
    fn into_output(self) -> Result<Output>;
}

impl<T: Serialize + JsonSchema, E: Into<ToolError>> ToolResult for Result<T, E> {
    type Value = T;

    fn into_output(self) -> Result<Output> {
        let value = self.map_err(Into::into)?;
        serde_json::value::to_raw_value(&value)
            .map(Output::Json)
            .map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, format!("the result is not JSON: {error}")))
    }
}

// Beside the one above: it is ours that a stream is not `Serialize`.
impl<E: Into<ToolError>> ToolResult for Result<ByteStream, E> {
    type Value = Content;

    fn into_output(self) -> Result<Output> {
        self.map(|stream| Output::Bytes(Box::new(stream))).map_err(Into::into)
    }
}

/// What a lifecycle method may return: `Result<T, E>` with `E: Into<ToolError>`.
#[diagnostic::on_unimplemented(
    message = "a lifecycle method cannot return `{Self}`",
    label = "expected `Result<T>`",
    note = "return `Result<T>`, or `Result<T, E>` with `E: Into<ToolError>`"
)]
pub trait HookResult {
    /// The value on success.
    type Value;

    /// With the runtime's error type.
    ///
    /// # Errors
    /// What the method answered.
    fn into_result(self) -> Result<Self::Value>;
}

impl<T, E: Into<ToolError>> HookResult for Result<T, E> {
    type Value = T;

    fn into_result(self) -> Result<T> {
        self.map_err(Into::into)
    }
}
