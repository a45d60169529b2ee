//! The lifecycle methods: `new`, `warmup`, `shutdown`, `initialize`, `cleanup`.

use syn::{Attribute, Ident, Signature, Type};

use crate::{
    docs,
    errors::{Errors, spelled},
    model::{
        Contents, alike,
        arg::{self, Passing},
        check_plain, is_unit, ok_type, output,
    },
};

/// Which lifecycle method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Makes the backend.
    New,
    /// Gets a resource ready.
    Warmup,
    /// Ends a resource.
    Shutdown,
    /// Makes a session.
    Initialize,
    /// Ends a session.
    Cleanup,
}

impl Phase {
    /// The phase of a method of this name.
    pub(crate) fn of(ident: &Ident) -> Option<Self> {
        [Self::New, Self::Warmup, Self::Shutdown, Self::Initialize, Self::Cleanup]
            .into_iter()
            .find(|phase| ident == phase.name())
    }

    /// The phase whose name was meant, by a method that could be it: one that returns a `Result`, under a name two letters
    /// off at most. A longer or shorter form of the name, such as `clean`, is a word of its own.
    pub(crate) fn meant(signature: &Signature) -> Option<Self> {
        let syn::ReturnType::Type(_, output) = &signature.output else { return None };
        let Type::Path(output) = &**output else { return None };
        if !output.path.segments.last()?.ident.to_string().ends_with("Result") {
            return None;
        }
        let found = signature.ident.to_string();
        [Self::Warmup, Self::Shutdown, Self::Initialize, Self::Cleanup].into_iter().find(|phase| {
            let name = phase.name();
            let apart = strsim::damerau_levenshtein(&found, name);
            (1..=2).contains(&apart) && !found.starts_with(name) && !name.starts_with(&found)
        })
    }

    /// The method's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Warmup => "warmup",
            Self::Shutdown => "shutdown",
            Self::Initialize => "initialize",
            Self::Cleanup => "cleanup",
        }
    }

    /// What to write.
    fn expected(self) -> &'static str {
        match self {
            Self::New => "async fn new(config: MyConfig) -> Result<Self>",
            Self::Warmup => "async fn warmup(&self) -> Result<()>",
            Self::Shutdown => "async fn shutdown(&self) -> Result<()>",
            Self::Initialize => "async fn initialize(&self, config: MySessionConfig) -> Result<MySession>",
            Self::Cleanup => "async fn cleanup(&self, session: MySession) -> Result<()>",
        }
    }

    /// What it takes by value.
    fn by_value(self) -> &'static str {
        match self {
            Self::New | Self::Initialize => "one argument by value, its configuration",
            Self::Warmup => "nothing by value",
            Self::Shutdown => "one argument by value, the shared state that `warmup` returned",
            Self::Cleanup => "one argument by value, the session",
        }
    }

    fn output_example(self) -> &'static str {
        match self {
            Self::New => "Result<Self>",
            Self::Initialize => "Result<MySession>",
            Self::Warmup | Self::Shutdown | Self::Cleanup => "Result<()>",
        }
    }
}

/// A lifecycle method.
pub(crate) struct Hook {
    /// Its name in the source.
    pub(crate) ident: Ident,
    /// Whether it is `async`.
    pub(crate) is_async: bool,
    /// The arguments after the receiver.
    pub(crate) args: Vec<HookArg>,
    /// The return type, if it is written.
    pub(crate) output: Option<Type>,
}

/// An argument of a lifecycle method.
pub(crate) enum HookArg {
    /// By value: configuration, shared state or session.
    Value(Type),
    /// `&mut T` in `cleanup`: the session.
    Session(Type),
    /// `&T`: injected.
    Lent(Type),
}

impl Hook {
    /// Reads a lifecycle method.
    pub(crate) fn parse(
        phase: Phase,
        attributes: &mut Vec<Attribute>,
        signature: &mut Signature,
        errors: &mut Errors,
    ) -> Self {
        let expected = phase.expected();
        let what = format!("lifecycle method `{}`", phase.name());
        arg::refuse_cfg(attributes, "a lifecycle method: which of them exist makes the backend's kind", errors);
        check_plain(signature, &what, errors);
        match (phase, signature.receiver()) {
            (Phase::New, Some(receiver)) => {
                errors.on(receiver, format!("`new` makes the backend, so it has no receiver; write `{expected}`"));
            }
            (Phase::New, None) => {}
            (_, Some(receiver)) => arg::check_receiver(receiver, errors),
            (_, None) => errors.on(&signature.ident, format!("{what} needs a receiver; write `{expected}`")),
        }
        let mut args: Vec<HookArg> = Vec::new();
        for argument in arg::typed(signature) {
            arg::refuse_cfg(&mut argument.attrs, "an argument", errors);
            refuse_attributes(&mut argument.attrs, errors);
            args.extend(parse_arg(phase, &argument.ty, &args, errors));
        }
        if phase == Phase::Cleanup && !args.iter().any(|arg| !matches!(arg, HookArg::Lent(_))) {
            let message =
                format!("`cleanup` takes the session, by value or by `&mut`, found neither; write `{expected}`");
            errors.on(&signature.ident, message);
        }
        let output = output(signature, phase.output_example(), errors);
        if let Some(output) = &output {
            check_output(phase, output, errors);
        }
        Self { ident: signature.ident.clone(), is_async: signature.asyncness.is_some(), args, output }
    }

    /// The type of the argument by value.
    pub(crate) fn value(&self) -> Option<&Type> {
        self.args.iter().find_map(|arg| if let HookArg::Value(ty) = arg { Some(ty) } else { None })
    }
}

/// Takes doc comments off an argument, which the language allows only where a macro does so, and notes what is for tools.
fn refuse_attributes(attributes: &mut Vec<Attribute>, errors: &mut Errors) {
    attributes.retain(|attribute| {
        let name = ["default", "serde", "schemars"].into_iter().find(|name| attribute.path().is_ident(name));
        if let Some(name) = name {
            errors.on(
                attribute,
                format!("`#[{name}]` is for the parameters of tools; put it on a field of the configuration"),
            );
        }
        name.is_none() && !docs::is_doc(attribute)
    });
}

fn parse_arg(phase: Phase, whole: &Type, earlier: &[HookArg], errors: &mut Errors) -> Option<HookArg> {
    let name = phase.name();
    let taken = earlier.iter().any(|arg| !matches!(arg, HookArg::Lent(_)));
    match arg::passing(whole) {
        Passing::Ref(inner) => arg::check_borrow(whole, inner, errors).then(|| HookArg::Lent(inner.clone())),
        Passing::Mut(inner) if phase == Phase::Cleanup => {
            if taken {
                errors.on(whole, "`cleanup` takes the session once, by value or by `&mut`; remove this argument");
            }
            Some(HookArg::Session(inner.clone()))
        }
        Passing::Mut(_) => {
            let message = format!(
                "`{name}` borrows by `&` only: `&mut` is for the session, in tools and in `cleanup`; write `&`"
            );
            errors.on(whole, message);
            None
        }
        Passing::Value(ty) => {
            if phase == Phase::Warmup || taken {
                let (found, by_value, expected) = (spelled(ty), phase.by_value(), phase.expected());
                errors.on(
                    ty,
                    format!(
                        "`{name}` takes {by_value}, and everything else by `&`; found `{found}`; write `{expected}`"
                    ),
                );
                return None;
            }
            let contents = Contents::of(ty);
            if let Some(found) = contents.impl_trait {
                errors.on(found, "the runtime must know this type; write a concrete one");
            }
            if let Some(found) = contents.reference {
                errors.on(found, "what is taken by value is owned, so it holds no borrow; write an owned type");
            } else if let Some(found) = contents.lifetime {
                errors.on(found, "what is taken by value is owned, so its type has no lifetime; write an owned type");
            }
            Some(HookArg::Value(ty.clone()))
        }
    }
}

fn check_output(phase: Phase, output: &Type, errors: &mut Errors) {
    let contents = Contents::of(output);
    if let Some(found) = contents.impl_trait {
        errors.on(found, "the runtime must know this type; write a concrete one");
    }
    if let Some(found) = contents.reference {
        errors.on(found, "the runtime keeps this value, so it holds no borrow; return an owned type");
    } else if let Some(found) = contents.lifetime {
        errors.on(found, "the runtime keeps this value, so its type has no lifetime; return an owned type");
    }
    let found = spelled(output);
    if found == "Self" || found.starts_with("Option<") || is_unit(output) {
        let (name, example) = (phase.name(), phase.output_example());
        errors.on(output, format!("`{name}` returns a `Result`, found `{found}`; write `-> {example}`"));
    }
}

/// The lifecycle methods that exist.
#[derive(Default)]
pub(crate) struct Hooks {
    /// `new`.
    pub(crate) new: Option<Hook>,
    /// `warmup`.
    pub(crate) warmup: Option<Hook>,
    /// `shutdown`.
    pub(crate) shutdown: Option<Hook>,
    /// `initialize`.
    pub(crate) initialize: Option<Hook>,
    /// `cleanup`.
    pub(crate) cleanup: Option<Hook>,
}

impl Hooks {
    /// Where the method of this phase is kept.
    pub(crate) fn slot(&mut self, phase: Phase) -> &mut Option<Hook> {
        match phase {
            Phase::New => &mut self.new,
            Phase::Warmup => &mut self.warmup,
            Phase::Shutdown => &mut self.shutdown,
            Phase::Initialize => &mut self.initialize,
            Phase::Cleanup => &mut self.cleanup,
        }
    }

    /// What `initialize` returns in `Ok`, if its spelling tells.
    pub(crate) fn session(&self) -> Option<&Type> {
        self.initialize.as_ref().and_then(|hook| hook.output.as_ref()).and_then(ok_type)
    }

    /// What `warmup` returns in `Ok`, if its spelling tells.
    pub(crate) fn shared(&self) -> Option<&Type> {
        self.warmup.as_ref().and_then(|hook| hook.output.as_ref()).and_then(ok_type)
    }

    /// Notes what the methods get wrong together.
    pub(crate) fn check(&self, errors: &mut Errors) {
        if let (Some(cleanup), None) = (&self.cleanup, &self.initialize) {
            let expected = Phase::Initialize.expected();
            errors.on(&cleanup.ident, format!("`cleanup` ends what `initialize` makes, and there is no `initialize`; add `{expected}`, or do this in `shutdown`"));
        }
        if let (Some(ty), None) = (self.shutdown.as_ref().and_then(Hook::value), &self.warmup) {
            let found = spelled(ty);
            errors.on(ty, format!("`shutdown` takes by value what `warmup` returned, and there is no `warmup`; add `async fn warmup(&self) -> Result<{found}>`, or remove this argument"));
        }
        if let (Some(session), Some(shared)) = (self.session(), self.shared())
            && alike(session, shared)
            && !is_unit(session)
        {
            let found = spelled(session);
            errors.on(session, format!("session and shared state must be two types, and `warmup` returns `{found}` too: a borrow `&{found}` could be either; wrap one of them in a struct of its own"));
        }
    }
}
