//! What an annotated item means: parsed and checked, without a token of the expansion.

pub(crate) mod arg;
pub(crate) mod backend;
pub(crate) mod lifecycle;
#[cfg(test)]
mod signatures;
pub(crate) mod tool;

use quote::ToTokens;
use syn::{LitStr, ReturnType, Signature, Type, visit::Visit};

use crate::errors::{Errors, spelled};

/// Most characters that model APIs allow in `group__tool`.
pub(crate) const MAX_API_NAME: usize = 64;

/// Why a name is not `[a-z][a-z0-9_]*` without `__`; nothing if it is.
pub(crate) fn name_fault(name: &str) -> Option<&'static str> {
    let mut characters = name.chars();
    if !characters.next().is_some_and(|first| first.is_ascii_lowercase()) {
        return Some("it must begin with a lower-case letter `a` to `z`");
    }
    if !characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        return Some("it may hold lower-case letters, digits and `_` only");
    }
    if name.contains("__") {
        return Some("`__` separates group and tool in the names that model APIs see; use one `_`");
    }
    None
}

/// Notes a bad name.
pub(crate) fn check_name(name: &LitStr, what: &str, errors: &mut Errors) {
    if let Some(fault) = name_fault(&name.value()) {
        errors.on(name, format!("`{}` is no name for {what}: {fault}", name.value()));
    }
}

/// Notes a `config = ".."` that is not `apis.key`.
pub(crate) fn check_section(section: &LitStr, errors: &mut Errors) {
    let value = section.value();
    let key = value.strip_prefix("apis.");
    if key.and_then(name_fault).is_some() || key.is_none() {
        errors.on(
            section,
            format!("`config` names a section of `apis`, found \"{value}\"; write `config = \"apis.key\"`"),
        );
    }
}

/// Notes what no annotated function may have: generics, `unsafe`, `extern`, `const`, `...`.
pub(crate) fn check_plain(signature: &Signature, what: &str, errors: &mut Errors) {
    for parameter in &signature.generics.params {
        let advice = match parameter {
            syn::GenericParam::Lifetime(_) => "leave the lifetime out: borrows of arguments need no name",
            _ => "write a concrete type: its schema is made at compile time",
        };
        errors.on(parameter, format!("{what} cannot be generic, found `{}`; {advice}", spelled(parameter)));
    }
    if let (true, Some(clause)) = (signature.generics.params.is_empty(), &signature.generics.where_clause) {
        errors.on(clause, format!("{what} cannot be generic, so it takes no `where` clause; remove it"));
    }
    if let syn::Safety::Unsafe(token) = &signature.safety {
        errors.on(
            token,
            format!("{what} is called by the runtime, so it cannot be `unsafe`; put an `unsafe` block inside"),
        );
    }
    if let Some(abi) = &signature.abi {
        errors.on(abi, format!("{what} is called by the runtime, so it cannot be `extern`; remove it"));
    }
    if let Some(variadic) = &signature.variadic {
        errors.on(variadic, format!("{what} cannot be variadic; take a `Vec` by value"));
    }
}

/// The return type, if there is one.
pub(crate) fn output(signature: &Signature, example: &str, errors: &mut Errors) -> Option<Type> {
    match &signature.output {
        ReturnType::Type(_, ty) => Some((**ty).clone()),
        ReturnType::Default => {
            let name = &signature.ident;
            errors.on(name, format!("`{name}` returns nothing, expected a `Result`; write `-> {example}`"));
            None
        }
    }
}

/// What a type is made of that a signature may not hold.
#[derive(Default)]
pub(crate) struct Contents<'a> {
    /// The first `impl Trait`.
    pub(crate) impl_trait: Option<&'a syn::TypeImplTrait>,
    /// The first `Self`.
    pub(crate) self_type: Option<&'a syn::Ident>,
    /// The first reference.
    pub(crate) reference: Option<&'a syn::TypeReference>,
    /// The first lifetime, `'static` aside.
    pub(crate) lifetime: Option<&'a syn::Lifetime>,
    /// The first `_`.
    pub(crate) infer: Option<&'a syn::TypeInfer>,
}

impl<'a> Contents<'a> {
    /// Looks through a type.
    pub(crate) fn of(ty: &'a Type) -> Self {
        let mut contents = Self::default();
        contents.visit_type(ty);
        contents
    }
}

impl<'ast> Visit<'ast> for Contents<'ast> {
    fn visit_type_impl_trait(&mut self, node: &'ast syn::TypeImplTrait) {
        self.impl_trait.get_or_insert(node);
    }

    fn visit_type_reference(&mut self, node: &'ast syn::TypeReference) {
        self.reference.get_or_insert(node);
        syn::visit::visit_type_reference(self, node);
    }

    fn visit_type_infer(&mut self, node: &'ast syn::TypeInfer) {
        self.infer.get_or_insert(node);
    }

    fn visit_lifetime(&mut self, node: &'ast syn::Lifetime) {
        if node.ident != "static" {
            self.lifetime.get_or_insert(node);
        }
    }

    fn visit_ident(&mut self, node: &'ast syn::Ident) {
        if node == "Self" {
            self.self_type.get_or_insert(node);
        }
    }
}

/// Whether two pieces of source are spelled alike.
pub(crate) fn alike(one: &impl ToTokens, other: &impl ToTokens) -> bool {
    one.to_token_stream().to_string() == other.to_token_stream().to_string()
}

/// `T` of a type spelled `Result<T>` or `Result<T, E>`.
pub(crate) fn ok_type(ty: &Type) -> Option<&Type> {
    argument_of("Result", ty)
}

/// `T` of a type spelled `Name<T>` or `Name<T, ..>`.
pub(crate) fn argument_of<'a>(name: &str, ty: &'a Type) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        syn::GenericArgument::Type(ty) if last.ident == name => Some(ty),
        _ => None,
    }
}

/// Whether this is `()`.
pub(crate) fn is_unit(ty: &Type) -> bool {
    matches!(ty, Type::Tuple(tuple) if tuple.elems.is_empty())
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    #[test]
    fn names() {
        assert_eq!(name_fault("vm_2"), None);
        assert!(["", "Vm", "2vm", "_vm", "v-m", "v__m", "v:m"].iter().all(|name| name_fault(name).is_some()));
    }

    #[test]
    fn contents_and_ok_type() {
        let ty: Type = parse_quote!(Option<&'static Self>);
        let contents = Contents::of(&ty);
        assert!(contents.reference.is_some() && contents.self_type.is_some() && contents.lifetime.is_none());
        let ty: Type = parse_quote!(std::result::Result<Vec<u8>, E>);
        assert!(alike(ok_type(&ty).unwrap(), &quote::quote!(Vec<u8>)));
        assert!(ok_type(&parse_quote!(Vec<u8>)).is_none());
        assert!(is_unit(&parse_quote!(())));
    }
}
