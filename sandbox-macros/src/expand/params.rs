//! The parameters of one tool as a struct, and their defaults.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;

use crate::{
    expand::{at, end, path_on},
    model::{
        arg::{Arg, Parameter, Resembles},
        tool::Tool,
    },
};

fn parameters(tool: &Tool) -> impl Iterator<Item = &Parameter> {
    tool.args.iter().filter_map(|arg| if let Arg::Parameter(parameter) = arg { Some(&**parameter) } else { None })
}

/// The parameters whose types the struct takes as its own, with their names there.
fn generics(tool: &Tool) -> impl Iterator<Item = (Ident, &Parameter)> {
    let named = |(index, parameter)| (format_ident!("__P{index}"), parameter);
    parameters(tool).enumerate().map(named).filter(|(_, parameter)| parameter.plain)
}

/// `struct __Params`. It is generic, so that what the derives ask of a type is asked where the struct is used, once and
/// in our words, and not in each line of theirs.
pub(crate) fn definition(tool: &Tool) -> TokenStream {
    // serde refuses the pair; the schema then stays open as well.
    let deny =
        if parameters(tool).any(|parameter| parameter.flatten) { None } else { Some(quote!(, deny_unknown_fields)) };
    let generics = generics(tool).map(|(name, _)| name);
    let fields =
        parameters(tool).enumerate().map(|(index, Parameter { attributes, ident, ty, plain, aliases, .. })| {
            let generic = format_ident!("__P{index}");
            let ty = if *plain { quote!(#generic) } else { quote!(#ty) };
            // The check against the schema comes before serde, and renames them.
            let aliases = (!aliases.is_empty()).then(|| quote!(#[schemars(extend("x-aliases" = [#(#aliases),*]))]));
            quote!(#(#attributes)* #aliases #ident: #ty)
        });
    // What the derives say without a place of their own is said on the tool.
    quote_spanned! {at(tool.ident.span())=>
        #[derive(__rt::serde::Deserialize, __rt::schemars::JsonSchema)]
        #[serde(crate = "__rt::serde" #deny)]
        #[schemars(crate = "__rt::schemars")]
        struct __Params<#(#generics),*> { #(#fields),* }
    }
}

/// `__Params<..>` with the types of the tool.
pub(crate) fn ty(tool: &Tool) -> TokenStream {
    let types = generics(tool).map(|(_, parameter)| checked(parameter, "Value"));
    quote!(__Params<#(#types),*>)
}

/// The function that makes their schema.
pub(crate) fn schema(tool: &Tool) -> TokenStream {
    let ty = ty(tool);
    if parameters(tool).all(|parameter| parameter.plain) {
        return quote!(<#ty as __rt::schemars::JsonSchema>::json_schema);
    }
    // Under an attribute that the derive refuses there is no schema, and saying so would be a second mistake.
    quote!({
        use __rt::NoSchema as _;
        __rt::SchemaOf::<#ty>::JSON
    })
}

/// The value of a parameter, out of `params`.
pub(crate) fn argument(parameter: &Parameter, span: Span) -> TokenStream {
    let ident = &parameter.ident;
    let field = quote_spanned!(span=> params.#ident);
    if !parameter.plain {
        return field;
    }
    // Else the method would say what type the field has, which then has not the traits: a mistake more.
    let sent = checked(parameter, "sent");
    quote_spanned!(end(&parameter.ty)=> #sent(#field))
}

/// The trait that a parameter's type must have. Where it has not, that is a mistake, and nothing that follows from it is.
fn checked(parameter: &Parameter, item: &str) -> TokenStream {
    let ty = &parameter.ty;
    let bound = match &parameter.resembles {
        Resembles::Nothing => quote!(Parameter<_>),
        Resembles::Session => quote!(SessionByValue<_>),
        Resembles::Shared(shared) => quote!(SharedByValue<#shared, _>),
        Resembles::Injected => quote!(InjectedByValue<_>),
    };
    path_on(ty, &quote_spanned!(ty.span()=> __rt::#bound), item)
}

/// `&[ParameterDefault::of::<T>("name", "json"), ..]`.
pub(crate) fn defaults(tool: &Tool) -> TokenStream {
    let entries = parameters(tool).filter_map(|parameter| {
        let Parameter { ty, wire_name, default, plain, .. } = parameter;
        let json = default.as_ref()?;
        let ty = if *plain { checked(parameter, "Value") } else { quote!(#ty) };
        Some(quote!(__rt::ParameterDefault::of::<#ty>(#wire_name, #json)))
    });
    quote!(&[#(#entries),*])
}
