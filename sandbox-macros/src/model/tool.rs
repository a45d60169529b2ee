//! One tool: a method of a backend, or a free function.

use proc_macro2::Span;
use syn::{Attribute, FnArg, Ident, LitStr, Pat, Signature, Type};

use crate::{
    attr::{self, ToolOptions},
    docs,
    errors::{Errors, spelled},
    model::{
        Contents, MAX_API_NAME, alike,
        arg::{self, Arg, Resembles},
        check_name, check_plain, check_section, name_fault, output,
    },
};

/// A tool, checked.
pub(crate) struct Tool {
    /// The function.
    pub(crate) ident: Ident,
    /// Simple name on the wire.
    pub(crate) name: String,
    /// Where the name stands.
    pub(crate) name_span: Span,
    /// The doc comment.
    pub(crate) description: String,
    /// What stands in `#[tool(..)]`.
    pub(crate) options: ToolOptions,
    /// `#[cfg(..)]` of the function.
    pub(crate) cfgs: Vec<Attribute>,
    /// The arguments after the receiver.
    pub(crate) args: Vec<Arg>,
    /// The return type.
    pub(crate) output: Type,
}

/// Where a tool stands.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In the `#[backend]` block of this name.
    Backend {
        /// Name of the backend, if it has a good one.
        name: Option<&'a str>,
        /// Whether there is an `initialize`.
        has_sessions: bool,
        /// What `initialize` returns, if its spelling tells.
        session: Option<&'a Type>,
        /// What `warmup` returns, if its spelling tells.
        shared: Option<&'a Type>,
    },
    /// In a `#[tools]` block.
    Tools,
    /// On its own, in this group.
    Free {
        /// `group` of `group:tool`.
        group: Option<&'a str>,
    },
}

/// A free tool, checked.
pub(crate) struct FreeTool {
    /// `group` of `group:tool`.
    pub(crate) group: String,
    /// `apis.key`.
    pub(crate) config_section: Option<String>,
    /// `#[cfg(..)]` of the function; the tool has none of its own.
    pub(crate) cfgs: Vec<Attribute>,
    /// The tool.
    pub(crate) tool: Tool,
}

impl FreeTool {
    /// Reads a function and takes away the attributes that are ours.
    pub(crate) fn parse(
        options: ToolOptions,
        attributes: &mut Vec<Attribute>,
        signature: &mut Signature,
        errors: &mut Errors,
    ) -> Option<Self> {
        if let Some(receiver) = signature.receiver() {
            errors.on(receiver, "a tool that is a method stands in a block marked `#[backend(..)]` or `#[tools]`; mark the `impl` block");
            return None;
        }
        let full_name = match &options.name {
            Some(name) => split_full_name(name, errors),
            None => {
                let name = &signature.ident;
                errors.on(name, format!("a free tool needs its full name; write `#[tool(name = \"group:{name}\")]`"));
                None
            }
        };
        if let Some(section) = &options.config {
            check_section(section, errors);
        }
        let config_section = options.config.as_ref().map(LitStr::value);
        let group = full_name.as_ref().map(|(group, _)| group.clone());
        let mut tool = Tool::parse(options, attributes, signature, Place::Free { group: group.as_deref() }, errors)?;
        let (group, name) = full_name?;
        let cfgs = std::mem::take(&mut tool.cfgs);
        Some(Self { group, config_section, cfgs, tool: Tool { name, ..tool } })
    }
}

fn split_full_name(name: &LitStr, errors: &mut Errors) -> Option<(String, String)> {
    let value = name.value();
    let Some((group, tool)) = value.split_once(':') else {
        errors.on(
            name,
            format!("a free tool is called `group:tool`, found \"{value}\"; write `name = \"group:{value}\"`"),
        );
        return None;
    };
    for (part, what) in [(group, "group"), (tool, "tool")] {
        if let Some(fault) = name_fault(part) {
            errors.on(name, format!("`{part}` is no name for a {what}: {fault}"));
            return None;
        }
    }
    Some((group.to_owned(), tool.to_owned()))
}

impl Tool {
    /// Reads a function and takes away the attributes that are ours.
    pub(crate) fn parse(
        options: ToolOptions,
        attributes: &mut Vec<Attribute>,
        signature: &mut Signature,
        place: Place<'_>,
        errors: &mut Errors,
    ) -> Option<Self> {
        let before = errors.len();
        let description = docs::text(attributes);
        if description.is_empty() {
            let name = &signature.ident;
            errors.on(name, format!("tool `{name}` has no description; write a doc comment above it, `/// What it does.`: models choose tools by it"));
        }
        while let Some(again) = attr::take(attributes, "tool") {
            errors.on(again, "`#[tool]` stands twice; keep one");
        }
        // What is taken by value, and how much of it, is what clients send: no matter of style.
        attributes.push(syn::parse_quote!(#[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]));
        let (name, name_span) = wire_name(&options, &signature.ident, place, errors);
        check_options(&options, signature, place, errors);
        check_plain(signature, "a tool", errors);
        check_self(signature, place, errors);
        let mut args = parse_args(&options, signature, place, errors);
        let output = output(signature, "Result<()>", errors);
        if let Some(output) = &output {
            check_output(output, errors);
        }
        let (session, shared) =
            if let Place::Backend { session, shared, .. } = place { (session, shared) } else { (None, None) };
        for arg in &mut args {
            if let Arg::Parameter(parameter) = arg {
                parameter.resembles = Resembles::of(&parameter.ty, session, shared);
            }
        }
        arg::check_together(&args, session, errors);
        let cfgs = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).cloned().collect();
        let output = output.filter(|_| errors.len() == before)?;
        Some(Self { ident: signature.ident.clone(), name, name_span, description, options, cfgs, args, output })
    }
}

fn wire_name(options: &ToolOptions, ident: &Ident, place: Place<'_>, errors: &mut Errors) -> (String, Span) {
    let (name, span) = match (&options.name, place) {
        (Some(name), Place::Free { .. }) => (name.value(), name.span()),
        (Some(name), _) => {
            check_name(name, "a tool", errors);
            (name.value(), name.span())
        }
        (None, _) => {
            let name = syn::ext::IdentExt::unraw(ident).to_string();
            if let (Some(fault), false) = (name_fault(&name), matches!(place, Place::Free { .. })) {
                errors.on(ident, format!("`{name}` is no name for a tool: {fault}; rename the function, or write `#[tool(name = \"..\")]`"));
            }
            (name, ident.span())
        }
    };
    let length = match place {
        Place::Backend { name: Some(backend), .. } => backend.len() + 2 + name.len(),
        Place::Backend { name: None, .. } | Place::Tools => 3 + name.len(),
        // `group:tool` becomes `group__tool`.
        Place::Free { group } => name.len() + usize::from(group.is_some()),
    };
    if length > MAX_API_NAME {
        let message = format!(
            "model APIs call this tool `group__tool`, with at most {MAX_API_NAME} characters, and `{name}` makes it {length}; shorten it"
        );
        errors.push(syn::Error::new(span, message));
    }
    (name, span)
}

/// An alias is a simple name, or a full one, `group:tool`.
fn check_alias(alias: &LitStr, errors: &mut Errors) {
    let value = alias.value();
    let (group, name) = value.split_once(':').map_or((None, value.as_str()), |(group, name)| (Some(group), name));
    for part in group.into_iter().chain([name]) {
        check_name(&LitStr::new(part, alias.span()), "a tool", errors);
    }
}

fn check_options(options: &ToolOptions, signature: &Signature, place: Place<'_>, errors: &mut Errors) {
    if let Some(group) = &options.group {
        check_name(group, "a group", errors);
    }
    for alias in &options.aliases {
        check_alias(alias, errors);
    }
    if let (Some(config), false) = (&options.config, matches!(place, Place::Free { .. })) {
        errors.on(config, "`config` is an option of free tools; a backend takes its configuration by value in `new`");
    }
    let name = &signature.ident;
    match (&signature.asyncness, options.blocking) {
        (Some(token), true) => {
            errors.on(token, "a `blocking` tool has a synchronous body, run on a thread of its own; remove `async`, or remove `blocking`");
        }
        (None, false) => {
            errors.on(signature.fn_token, format!("tool `{name}` is neither `async` nor `blocking`; write `async fn {name}`, or `#[tool(blocking)]` if its body blocks the thread"));
        }
        _ => {}
    }
}

fn check_self(signature: &Signature, place: Place<'_>, errors: &mut Errors) {
    match (signature.receiver(), place) {
        (Some(receiver), Place::Backend { .. } | Place::Tools) => arg::check_receiver(receiver, errors),
        (None, Place::Backend { .. } | Place::Tools) => {
            let name = &signature.ident;
            errors.on(name, format!("a tool of a backend is a method; write `fn {name}(&self, ..)`, or move it out of the block as a free tool"));
        }
        (_, Place::Free { .. }) => {}
    }
}

fn parse_args(options: &ToolOptions, signature: &mut Signature, place: Place<'_>, errors: &mut Errors) -> Vec<Arg> {
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first_mut() {
        arg::refuse_cfg(&mut receiver.attrs, "an argument", errors);
    }
    let free = matches!(place, Place::Free { .. });
    let mut args = Vec::new();
    for typed in arg::typed(signature) {
        let is_config = matches!(&*typed.pat, Pat::Ident(name) if name.ident == "config");
        let Some(parsed) = arg::parse(typed, errors) else { continue };
        let parsed = match parsed {
            Arg::Lent(ty) if free && is_config => {
                if options.config.is_none() {
                    errors.on(&typed.pat, "`config` is lent from a section of the configuration, and `#[tool(..)]` names none; write `config = \"apis.key\"` in it");
                }
                Arg::Config(ty)
            }
            Arg::Parameter(parameter) if free && is_config && options.config.is_some() => {
                let found = spelled(&parameter.ty);
                errors.on(
                    &parameter.ty,
                    format!("the configuration is lent, not sent by the client; write `config: &{found}`"),
                );
                continue;
            }
            Arg::Exclusive(ty) if free => {
                errors.on(&typed.ty, "a free tool has no session, so nothing can be borrowed by `&mut`; make it a method of a `#[backend]` with `initialize`");
                Arg::Exclusive(ty)
            }
            Arg::Exclusive(ty) => {
                if let Place::Backend { has_sessions: false, shared, .. } = place {
                    let found = spelled(&ty);
                    let advice = if shared.is_some_and(|shared| alike(shared, &ty)) {
                        format!(
                            "`{found}` is the shared state, which calls use at the same time; write `&{found}`, and keep what changes behind a lock"
                        )
                    } else {
                        format!("this backend has no `initialize`; add `async fn initialize(&self) -> Result<{found}>`")
                    };
                    errors.on(&typed.ty, format!("`&mut` borrows the session, and {advice}"));
                }
                Arg::Exclusive(ty)
            }
            other => other,
        };
        args.push(parsed);
    }
    if let (Some(config), true) = (&options.config, free) {
        let mut inputs = signature.inputs.iter();
        if !inputs.any(|input| matches!(input, FnArg::Typed(typed) if matches!(&*typed.pat, Pat::Ident(name) if name.ident == "config"))) {
            let message = "this tool has a configuration and no argument for it; write `config: &MyConfig` as its first argument, or remove the option";
            errors.on(config, message);
        }
    }
    args
}

fn check_output(output: &Type, errors: &mut Errors) {
    let contents = Contents::of(output);
    if let Some(found) = contents.impl_trait {
        errors.on(found, "`impl Trait` has no schema; write the type that the tool returns");
    }
    let named = contents.reference.and_then(|reference| reference.lifetime.as_ref());
    match (contents.reference, contents.lifetime) {
        (Some(reference), _) if named.is_none_or(|lifetime| lifetime.ident != "static") => {
            errors
                .on(reference, "a result outlives the call that made it, so it holds no borrow; return an owned type");
        }
        (None, Some(lifetime)) => {
            errors.on(
                lifetime,
                "a result outlives the call that made it, so its type has no lifetime; return an owned type",
            );
        }
        _ => {}
    }
    if let Some(found) = contents.self_type {
        errors.on(found, "`Self` is the backend, which no tool can return; write the type that the tool returns");
    }
    if let Some(found) = contents.infer {
        errors.on(found, "the schema needs the whole type, found `_`; write it out");
    }
}
