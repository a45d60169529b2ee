//! One argument: by value a parameter that the client sends, by reference injected by the runtime.

use syn::{
    Attribute, FnArg, Ident, Meta, Pat, PatType, Receiver, ReceiverKind, Signature, Token, Type, ext::IdentExt,
    punctuated::Punctuated,
};

use crate::{
    attr, docs,
    errors::{Errors, spelled},
    model::{Contents, alike, argument_of},
};

/// An argument of a tool, in the order of the signature.
pub(crate) enum Arg {
    /// By value: the client sends it.
    Parameter(Box<Parameter>),
    /// `&T`: injected.
    Lent(Type),
    /// `&mut T`: the session, alone.
    Exclusive(Type),
    /// The `config` of a free tool.
    Config(Type),
}

/// A parameter that the client sends.
pub(crate) struct Parameter {
    /// Its name in the source.
    pub(crate) ident: Ident,
    /// Its name on the wire.
    pub(crate) wire_name: String,
    /// `#[serde(alias = "..")]`: other names that it may be sent under.
    pub(crate) aliases: Vec<String>,
    /// Its type as written.
    pub(crate) ty: Type,
    /// Doc comments, `#[serde(..)]` and `#[schemars(..)]`: they move to its field.
    pub(crate) attributes: Vec<Attribute>,
    /// `#[default ..]` as JSON text.
    pub(crate) default: Option<String>,
    /// `#[serde(flatten)]`.
    pub(crate) flatten: bool,
    /// Whether its field needs nothing but that the type can be read and has a schema.
    pub(crate) plain: bool,
    /// What its type is spelled as, for the message in case that the client cannot send it.
    pub(crate) resembles: Resembles,
}

/// What the spelling of a parameter's type is alike to.
pub(crate) enum Resembles {
    /// Nothing.
    Nothing,
    /// What `initialize` returns.
    Session,
    /// What `warmup` returns, which is this, or an `Arc` of it.
    Shared(Box<Type>),
    /// What the runtime injects.
    Injected,
}

/// Types of the runtime that a tool borrows.
const INJECTED: &[&str] = &[
    "ToolContext",
    "ResourceContext",
    "SessionHandle",
    "EndReason",
    "CancellationToken",
    "Progress",
    "WorkerId",
    "SessionId",
    "TraceId",
];

impl Resembles {
    /// Compares spellings.
    pub(crate) fn of(ty: &Type, session: Option<&Type>, shared: Option<&Type>) -> Self {
        if session.is_some_and(|session| alike(session, ty)) {
            return Self::Session;
        }
        let content = argument_of("Arc", ty).unwrap_or(ty);
        if let Some(shared) = shared.filter(|shared| alike(*shared, content)) {
            return Self::Shared(Box::new(shared.clone()));
        }
        let last = if let Type::Path(path) = ty { path.path.segments.last() } else { None };
        match last {
            Some(last) if last.arguments.is_none() && INJECTED.iter().any(|name| last.ident == name) => Self::Injected,
            _ => Self::Nothing,
        }
    }
}

/// How a borrow is written.
pub(crate) enum Passing<'a> {
    /// `T`.
    Value(&'a Type),
    /// `&T`.
    Ref(&'a Type),
    /// `&mut T`.
    Mut(&'a Type),
}

/// Splits the `&` from a type.
pub(crate) fn passing(ty: &Type) -> Passing<'_> {
    match ty {
        Type::Reference(reference) if reference.mutability.is_some() => Passing::Mut(&reference.elem),
        Type::Reference(reference) => Passing::Ref(&reference.elem),
        Type::Group(group) => passing(&group.elem),
        Type::Paren(paren) => passing(&paren.elem),
        other => Passing::Value(other),
    }
}

/// Notes a receiver that is neither `&self` nor `self: &Arc<Self>`.
pub(crate) fn check_receiver(receiver: &Receiver, errors: &mut Errors) {
    let advice = "write `&self`, or `self: &Arc<Self>`";
    match &receiver.kind {
        ReceiverKind::Value => errors.on(receiver, format!("`self` by value would use the backend up; {advice}")),
        ReceiverKind::Reference(_, Some(lifetime), _) => {
            errors.on(lifetime, "leave the lifetime out: borrows of arguments need no name");
        }
        ReceiverKind::Reference(_, None, Some(mutability)) => {
            let message = "calls share the backend, so it cannot be borrowed by `&mut`; write `&self`, and keep what changes in the session or behind a lock";
            errors.on(mutability, message);
        }
        ReceiverKind::Reference(_, None, None) => {}
        ReceiverKind::Typed(_, ty) => {
            if let Some(lifetime) = Contents::of(ty).lifetime {
                errors.on(lifetime, "leave the lifetime out: borrows of arguments need no name");
            } else if !matches!(passing(ty), Passing::Ref(_)) {
                errors.on(ty, format!("`{}` is no receiver of a backend; {advice}", spelled(ty)));
            }
        }
        _ => errors.on(receiver, format!("this receiver is not known; {advice}")),
    }
}

/// The arguments after the receiver.
pub(crate) fn typed(signature: &mut Signature) -> impl Iterator<Item = &mut PatType> {
    signature.inputs.iter_mut().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    })
}

/// Notes `#[cfg]` on an argument, and takes it away.
pub(crate) fn refuse_cfg(attributes: &mut Vec<Attribute>, what: &str, errors: &mut Errors) {
    for attribute in attributes.iter().filter(|a| a.path().is_ident("cfg") || a.path().is_ident("cfg_attr")) {
        let found = spelled(attribute.path());
        errors.on(
            attribute,
            format!("`#[{found}]` cannot stand on {what}; put it on a whole tool, or on the whole block"),
        );
    }
    attributes.retain(|a| !a.path().is_ident("cfg") && !a.path().is_ident("cfg_attr"));
}

/// Notes what can never be borrowed from the runtime. Everything else is for the type system to judge.
pub(crate) fn check_borrow(whole: &Type, inner: &Type, errors: &mut Errors) -> bool {
    let before = errors.len();
    let found = spelled(whole);
    let by_value = |owned: &str| {
        format!(
            "`{found}` cannot be injected: what is borrowed comes from the runtime, what the client sends is taken by value; write `{owned}`"
        )
    };
    let named = if let Type::Reference(reference) = whole { reference.lifetime.as_ref() } else { None };
    if let Some(lifetime) = named.or(Contents::of(whole).lifetime) {
        errors.on(lifetime, "leave the lifetime out: borrows of arguments need no name");
        return false;
    }
    match inner {
        Type::Path(path) if path.path.is_ident("str") => errors.on(whole, by_value("String")),
        Type::Path(path) if path.path.is_ident("Path") => errors.on(whole, by_value("PathBuf")),
        Type::Slice(slice) => {
            let element = spelled(&slice.elem);
            errors.on(whole, by_value(&format!("Vec<{element}>")));
        }
        Type::TraitObject(_) => {
            let advice = "the runtime injects values of one type; name a type that implements `Inject`";
            errors.on(whole, format!("`{found}` cannot be injected: {advice}"));
        }
        Type::ImplTrait(_) => errors.on(inner, "`impl Trait` has no type that the runtime could inject; name the type"),
        Type::Reference(_) => errors.on(whole, format!("`{found}` cannot be injected: write one `&`")),
        _ => {
            let contents = Contents::of(inner);
            if let Some(found) = contents.impl_trait {
                errors.on(found, "`impl Trait` has no type that the runtime could inject; name the type");
            }
            if let Some(found) = contents.self_type {
                let message = "`Self` cannot be an argument; the backend is the receiver `&self`";
                errors.on(found, message);
            }
        }
    }
    errors.len() == before
}

/// Reads one argument of a tool and takes away the attributes that are ours.
pub(crate) fn parse(argument: &mut PatType, errors: &mut Errors) -> Option<Arg> {
    refuse_cfg(&mut argument.attrs, "an argument", errors);
    let default = attr::take(&mut argument.attrs, "default");
    let ours = |attribute: &Attribute| {
        docs::is_doc(attribute) || attribute.path().is_ident("serde") || attribute.path().is_ident("schemars")
    };
    let (attributes, rest) = std::mem::take(&mut argument.attrs).into_iter().partition(ours);
    argument.attrs = rest;
    let whole = &*argument.ty;
    let (inner, exclusive) = match passing(whole) {
        Passing::Ref(inner) => (inner, false),
        Passing::Mut(inner) => (inner, true),
        Passing::Value(ty) => return parameter(&argument.pat, ty, attributes, default.as_ref(), errors),
    };
    let attributes: Vec<Attribute> = attributes;
    for attribute in default.iter().chain(attributes.iter().filter(|attribute| !docs::is_doc(attribute))) {
        let name = spelled(attribute.path());
        errors.on(attribute, format!("`#[{name}]` is for what the client sends, and this argument is injected; remove it, or take the argument by value"));
    }
    if !check_borrow(whole, inner, errors) {
        return None;
    }
    Some(if exclusive { Arg::Exclusive(inner.clone()) } else { Arg::Lent(inner.clone()) })
}

fn parameter(
    pattern: &Pat,
    ty: &Type,
    attributes: Vec<Attribute>,
    default: Option<&Attribute>,
    errors: &mut Errors,
) -> Option<Arg> {
    let before = errors.len();
    let ident = match pattern {
        Pat::Ident(name) if name.by_ref.is_none() && name.subpat.is_none() => Some(&name.ident),
        _ => {
            let found = spelled(pattern);
            errors.on(pattern, format!("a parameter needs one name, under which the client sends it, found the pattern `{found}`; take it apart inside the function"));
            None
        }
    };
    let contents = Contents::of(ty);
    if let Some(found) = contents.impl_trait {
        errors.on(found, "`impl Trait` has no schema; write a concrete type, such as `String`");
    }
    if let Some(found) = contents.self_type {
        errors.on(found, "`Self` in a parameter would be the backend itself, which no client can send; name the type");
    }
    if let Some(found) = contents.reference {
        let message = "a parameter is parsed from the request and owned by the tool, so it holds no borrow; write an owned type, such as `String` or `Vec<T>`";
        errors.on(found, message);
    } else if let Some(found) = contents.lifetime {
        errors.on(found, "a parameter is owned by the tool, so its type has no lifetime; write an owned type");
    }
    if let Some(found) = contents.infer {
        errors.on(found, "the schema needs the whole type, found `_`; write it out");
    }
    let json = default.and_then(|default| errors.ok(attr::default_json(default)));
    let serde = Serde::of(&attributes);
    if let (true, Some(default)) = (serde.flatten, default) {
        errors.on(default, "a flattened argument is many parameters, so it has no default of its own; give its fields `#[serde(default)]`");
    }
    let ident = ident.filter(|_| errors.len() == before)?.clone();
    let wire_name = serde.rename.clone().unwrap_or_else(|| ident.unraw().to_string());
    let Serde { flatten, aliases, .. } = serde;
    let plain = is_plain(&attributes);
    let (ty, default, resembles) = (ty.clone(), json, Resembles::Nothing);
    Some(Arg::Parameter(Box::new(Parameter {
        ident,
        wire_name,
        aliases,
        ty,
        attributes,
        default,
        flatten,
        plain,
        resembles,
    })))
}

/// Whether these attributes are known to ask nothing more of the type: `with = ".."` reads it in another way, and
/// `default = ".."` names a function that returns it.
fn is_plain(attributes: &[Attribute]) -> bool {
    const PLAIN: &[&str] = &[
        "rename",
        "alias",
        "flatten",
        "title",
        "description",
        "range",
        "length",
        "regex",
        "pattern",
        "format",
        "extend",
        "inner",
        "example",
        "examples",
        "deprecated",
    ];
    attributes.iter().filter(|attribute| !docs::is_doc(attribute)).all(|attribute| {
        let metas = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
        metas.is_ok_and(|metas| metas.iter().all(|meta| PLAIN.iter().any(|name| meta.path().is_ident(name))))
    })
}

/// What matters here of `#[serde(..)]`; all the rest is for serde to judge.
#[derive(Default)]
struct Serde {
    rename: Option<String>,
    /// Other names that it may be sent under.
    aliases: Vec<String>,
    flatten: bool,
}

impl Serde {
    fn of(attributes: &[Attribute]) -> Self {
        let mut serde = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            let metas = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default();
            for meta in metas {
                serde.read(&meta);
            }
        }
        serde
    }

    fn read(&mut self, meta: &Meta) {
        match meta {
            Meta::Path(path) if path.is_ident("flatten") => self.flatten = true,
            Meta::NameValue(pair) => {
                if let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(name), .. }) = &pair.value {
                    if pair.path.is_ident("rename") || pair.path.is_ident("deserialize") {
                        self.rename = Some(name.value());
                    } else if pair.path.is_ident("alias") {
                        self.aliases.push(name.value());
                    }
                }
            }
            Meta::List(list) if list.path.is_ident("rename") => {
                let inner = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default();
                inner.iter().for_each(|meta| self.read(meta));
            }
            _ => {}
        }
    }
}

/// Notes parameters of one name, and borrows that are alike where that cannot be.
pub(crate) fn check_together(args: &[Arg], session: Option<&Type>, errors: &mut Errors) {
    let mut names: Vec<&Parameter> = Vec::new();
    let mut lent: Vec<&Type> = Vec::new();
    let mut exclusive: Option<&Type> = None;
    for arg in args {
        match arg {
            Arg::Parameter(parameter) if !parameter.flatten => {
                if let Some(earlier) = names.iter().find(|earlier| earlier.wire_name == parameter.wire_name) {
                    let (name, one, other) = (&parameter.wire_name, &earlier.ident, &parameter.ident);
                    errors.on(
                        other,
                        format!("`{one}` and `{other}` are both the parameter `{name}` of the client; give each a name of its own"),
                    );
                }
                names.push(parameter);
            }
            Arg::Exclusive(ty) => {
                if exclusive.is_some() {
                    errors.on(
                        ty,
                        "two arguments are borrowed by `&mut`, and only the session can be, once; take one of them",
                    );
                } else if lent.iter().any(|earlier| alike(*earlier, ty)) {
                    errors.on(ty, borrowed_twice(ty));
                }
                exclusive.get_or_insert(ty);
            }
            Arg::Lent(ty) => {
                let again =
                    session.is_some_and(|session| alike(session, ty)) && lent.iter().any(|earlier| alike(*earlier, ty));
                if again || exclusive.is_some_and(|exclusive| alike(exclusive, ty)) {
                    errors.on(ty, borrowed_twice(ty));
                }
                lent.push(ty);
            }
            Arg::Parameter(_) | Arg::Config(_) => {}
        }
    }
}

fn borrowed_twice(ty: &Type) -> String {
    format!("the session `{}` is borrowed twice; take it once, by `&` or by `&mut`", spelled(ty))
}
