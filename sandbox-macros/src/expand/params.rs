//! The parameters of one tool as a struct, and their defaults.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};

use crate::{
    expand::at,
    model::{
        arg::{Arg, Parameter},
        tool::Tool,
    },
};

fn parameters(tool: &Tool) -> impl Iterator<Item = &Parameter> {
    tool.args.iter().filter_map(|arg| if let Arg::Parameter(parameter) = arg { Some(&**parameter) } else { None })
}

/// `struct __Params`.
pub(crate) fn definition(tool: &Tool) -> TokenStream {
    // serde refuses the pair; the schema then stays open as well.
    let deny =
        if parameters(tool).any(|parameter| parameter.flatten) { None } else { Some(quote!(, deny_unknown_fields)) };
    let fields = parameters(tool).map(|Parameter { attributes, ident, ty, .. }| quote!(#(#attributes)* #ident: #ty));
    // What the derives say without a place of their own is said on the tool.
    quote_spanned! {at(tool.ident.span())=>
        #[derive(__rt::serde::Deserialize, __rt::schemars::JsonSchema)]
        #[serde(crate = "__rt::serde" #deny)]
        #[schemars(crate = "__rt::schemars")]
        struct __Params { #(#fields),* }
    }
}

/// `&[ParameterDefault::of::<T>("name", "json"), ..]`.
pub(crate) fn defaults(tool: &Tool) -> TokenStream {
    let entries = parameters(tool).filter_map(|Parameter { ty, wire_name, default, .. }| {
        let json = default.as_ref()?;
        Some(quote!(__rt::ParameterDefault::of::<#ty>(#wire_name, #json)))
    });
    quote!(&[#(#entries),*])
}
