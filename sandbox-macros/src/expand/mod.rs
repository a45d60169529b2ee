//! From tokens to tokens: the author's item, its attributes stripped, and the generated code beside it.

mod backend;
#[cfg(test)]
mod golden;
mod params;
mod tool;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Ident, Item, ItemFn, ItemImpl, Type};

use crate::{
    attr::ToolOptions,
    errors::Errors,
    model::{
        backend::{Backend, ToolsBlock},
        tool::FreeTool,
    },
};

/// `#[backend(..)]`.
pub(crate) fn backend(options: TokenStream, item: &TokenStream) -> TokenStream {
    on_impl(item, "#[backend(..)]", |item, errors| {
        let model = Backend::parse(options, item, errors)?;
        Some(if errors.len() == 0 { backend::expand(&model) } else { backend::stand_in(&model) })
    })
}

/// `#[tools]`.
pub(crate) fn tools(options: &TokenStream, item: &TokenStream) -> TokenStream {
    on_impl(item, "#[tools]", |item, errors| {
        let model = ToolsBlock::parse(options, item, errors)?;
        (errors.len() == 0).then(|| tool::expand_block(&model))
    })
}

/// `#[tool(..)]` on a free function; methods are read by their block.
pub(crate) fn tool(options: TokenStream, item: &TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let Ok(mut function) = syn::parse2::<ItemFn>(item.clone()) else {
        let message =
            "`#[tool]` stands on an `async fn`, on its own or in a block marked `#[backend(..)]` or `#[tools]`";
        let error = syn::Error::new(Span::call_site(), message).to_compile_error();
        return quote!(#item #error);
    };
    let options = ToolOptions::parse(options, &mut errors);
    let model = FreeTool::parse(options, &mut function.attrs, &mut function.sig, &mut errors);
    let generated = model.filter(|_| errors.len() == 0).map(|model| backend::expand_free_tool(&model));
    let errors = errors.into_tokens();
    quote!(#function #generated #errors)
}

fn on_impl(
    item: &TokenStream,
    attribute: &str,
    expand: impl FnOnce(&mut ItemImpl, &mut Errors) -> Option<TokenStream>,
) -> TokenStream {
    let mut errors = Errors::default();
    match syn::parse2(item.clone()) {
        Ok(Item::Impl(mut item)) => {
            let generated = expand(&mut item, &mut errors);
            let errors = errors.into_tokens();
            quote!(#item #generated #errors)
        }
        Ok(other) => {
            errors.push(syn::Error::new(
                Span::call_site(),
                format!("`{attribute}` stands on the `impl` block of a type; move it to `impl MyType {{ .. }}`"),
            ));
            let errors = errors.into_tokens();
            quote!(#other #errors)
        }
        Err(error) => {
            let error = error.to_compile_error();
            quote!(#item #error)
        }
    }
}

/// Wraps generated items, so that their names meet none of the author's.
fn in_const(cfgs: &[syn::Attribute], items: &TokenStream) -> TokenStream {
    quote! {
        #(#cfgs)*
        const _: () = {
            use ::sandbox_runtime::__private as __rt;
            #items
        };
    }
}

/// The span of the last token.
fn end(tokens: impl ToTokens) -> Span {
    tokens.to_token_stream().into_iter().last().map_or_else(Span::call_site, |token| token.span())
}

/// `<ty as bound>::item` under the whole of `ty`: where several errors are one, the compiler then shows one.
fn path_on(ty: &Type, bound: &TokenStream, item: &str) -> TokenStream {
    let first = ty.to_token_stream().into_iter().next().map_or_else(Span::call_site, |token| token.span());
    let (open, item) = (quote_spanned!(first=> <), Ident::new(item, end(ty)));
    quote!(#open #ty as #bound>::#item)
}

/// A span where errors of generated code are shown; lints still know that no author wrote it.
fn at(span: Span) -> Span {
    Span::call_site().located_at(span)
}

/// The place in the source, for the registry's errors.
fn location(span: Span) -> TokenStream {
    // With the author's own span: `line!` of the macro's would be the line of the attribute.
    let line = quote_spanned!(span=> ::core::line!());
    quote! {
        __rt::Location { krate: ::core::env!("CARGO_PKG_NAME"), file: ::core::file!(), line: #line }
    }
}

/// `Some(..)` or `None`.
fn option(value: Option<impl ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote!(__rt::Option::Some(#value)),
        None => quote!(__rt::Option::None),
    }
}
