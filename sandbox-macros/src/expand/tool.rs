//! The `Tool` literal of one tool, with the glue that runs a call of it.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Ident, Type, spanned::Spanned};

use crate::{
    expand::{at, in_const, location, option, params, path_on},
    model::{arg::Arg, backend::ToolsBlock, tool::Tool},
};

/// What a `#[tools]` block adds.
pub(crate) fn expand_block(block: &ToolsBlock) -> TokenStream {
    let ToolsBlock { self_ty, cfgs, tools } = block;
    let tools = tools.iter().map(|tool| literal(tool, self_ty, Callee::Method(self_ty)));
    let location = location(self_ty.span());
    let call = quote_spanned!(at(self_ty.span())=> tools());
    let bound = quote_spanned!(self_ty.span()=> __rt::Backend);
    // The bound is taken for granted inside, so that a type that is no backend is one mistake and not one in each line.
    let items = quote! {
        const fn tools() -> __rt::ToolBlock
        where
            #self_ty: #bound,
        {
            __rt::ToolBlock::of::<#self_ty>(
                &const { &[#(#tools),*] as &'static [__rt::Tool<#self_ty>] },
                #location,
            )
        }

        #[__rt::linkme::distributed_slice(__rt::TOOL_BLOCKS)]
        #[linkme(crate = __rt::linkme)]
        static __BLOCK: __rt::ToolBlock = #call;
    };
    in_const(cfgs, &items)
}

/// What a tool calls.
#[derive(Clone, Copy)]
pub(crate) enum Callee<'a> {
    /// A method of this type.
    Method(&'a Type),
    /// A function.
    Function,
}

/// One element of a list of tools.
pub(crate) fn literal(tool: &Tool, backend: &Type, callee: Callee<'_>) -> TokenStream {
    let Tool { name, description, options, cfgs, output, .. } = tool;
    let params = params::definition(tool);
    let (schema, defaults) = (params::schema(tool), params::defaults(tool));
    let session = session_use(tool, backend);
    let checks = session_checks(tool, backend);
    let run = run(tool, backend, callee, &session);
    let location = location(tool.name_span);
    let aliases = &options.aliases;
    let group = option(options.group.as_ref());
    let timeout = option(options.timeout_ms.map(|ms| quote!(__rt::Duration::from_millis(#ms))));
    let (hidden, idempotent, read_only) = (options.hidden, options.idempotent, options.read_only);
    let blocking = options.blocking;
    let value = path_on(output, &quote_spanned!(output.span()=> __rt::ToolResult), "Value");
    quote! {
        #(#cfgs)*
        {
            #params
            #checks
            __rt::Tool {
                name: #name,
                description: #description,
                aliases: &[#(#aliases),*],
                group: #group,
                hidden: #hidden,
                idempotent: #idempotent,
                read_only: #read_only,
                timeout: #timeout,
                blocking: #blocking,
                session: #session,
                input_schema: #schema,
                output_schema: <#value as __rt::schemars::JsonSchema>::json_schema,
                defaults: #defaults,
                run: #run,
                location: #location,
            }
        }
    }
}

fn lent(tool: &Tool) -> impl Iterator<Item = &Type> {
    tool.args.iter().filter_map(|arg| if let Arg::Lent(ty) = arg { Some(ty) } else { None })
}

fn is_exclusive(tool: &Tool) -> bool {
    tool.args.iter().any(|arg| matches!(arg, Arg::Exclusive(_)))
}

/// How the tool uses the session, by type: only the type system knows which borrow is the session.
fn session_use(tool: &Tool, backend: &Type) -> TokenStream {
    let is_session: Vec<TokenStream> = lent(tool).map(|ty| lend(ty, backend, "IS_SESSION")).collect();
    match (is_exclusive(tool), is_session.is_empty()) {
        (true, _) => quote!(__rt::SessionUse::Exclusive),
        (false, true) => quote!(__rt::SessionUse::None),
        (false, false) => {
            quote!(if #(#is_session)||* { __rt::SessionUse::Shared } else { __rt::SessionUse::None })
        }
    }
}

/// Refuses a session that is borrowed twice under different names of its type.
fn session_checks(tool: &Tool, backend: &Type) -> TokenStream {
    let exclusive = is_exclusive(tool);
    let is_session: Vec<TokenStream> = lent(tool).map(|ty| lend(ty, backend, "IS_SESSION")).collect();
    let message = "the session is borrowed twice by this tool; take it once, by `&` or by `&mut`";
    let checks = lent(tool).enumerate().filter(|(index, _)| exclusive || *index > 0).map(|(index, ty)| {
        let (this, earlier) = (&is_session[index], &is_session[..index]);
        let twice = if exclusive { quote!(#this) } else { quote!(#this && (#(#earlier)||*)) };
        quote_spanned!(at(ty.span())=> const { ::core::assert!(!(#twice), #message) };)
    });
    checks.collect()
}

/// `<T as Lend<CallScope<Backend>, _>>::item`.
fn lend(ty: &Type, backend: &Type, item: &str) -> TokenStream {
    path_on(ty, &quote_spanned!(ty.span()=> __rt::Lend<__rt::CallScope<#backend>, _>), item)
}

/// The function that runs one call.
fn run(tool: &Tool, backend: &Type, callee: Callee<'_>, session: &TokenStream) -> TokenStream {
    // Hygienic, so that a free tool may be called `call` or `scope`, as the variables here are.
    let span = Span::mixed_site().located_at(tool.ident.span());
    let exclusive = is_exclusive(tool);
    let blocking = tool.options.blocking;
    let scope = if blocking { quote_spanned!(span=> scope) } else { quote_spanned!(span=> &scope) };
    let mut lets = Vec::new();
    let mut values = Vec::new();
    let mut has_parameters = false;
    for (index, arg) in tool.args.iter().enumerate() {
        let lent = format_ident!("lent_{index}", span = span);
        match arg {
            Arg::Parameter(parameter) => {
                has_parameters = true;
                values.push(params::argument(parameter, span));
            }
            Arg::Config(_) => values.push(quote_spanned!(span=> &scope.backend().config)),
            Arg::Lent(ty) => {
                let lending = lend(ty, backend, "lend");
                lets.push(lend_let(&lent, &quote_spanned!(span=> #lending(#scope)), exclusive, span));
                values.push(quote_spanned!(span=> &#lent));
            }
            Arg::Exclusive(ty) => {
                let lend_mut = path_on(
                    ty,
                    &quote_spanned!(ty.span()=> __rt::SessionOf<<#backend as __rt::Backend>::Session>),
                    "lend_mut",
                );
                values.push(quote_spanned!(span=> #lend_mut(&mut exclusive)));
            }
        }
    }
    let (ident, params_ty) = (&tool.ident, params::ty(tool));
    let call = match callee {
        Callee::Method(ty) => quote_spanned!(span=> <#ty>::#ident(scope.backend(), #(#values),*)),
        Callee::Function => quote_spanned!(span=> #ident(#(#values),*)),
    };
    let call = if blocking { call } else { quote_spanned!(span=> #call.await) };
    let finish = exclusive.then(|| quote_spanned!(span=> exclusive.finish();));
    let output = &tool.output;
    let into_output = path_on(output, &quote_spanned!(output.span()=> __rt::ToolResult), "into_output");
    let mut body = quote_spanned! {span=>
        #(#lets)*
        let result = #call;
        #finish
        #into_output(result)
    };
    if blocking {
        body = quote_spanned!(span=> scope.block(move |scope| { #body }).await?);
    }
    let params = if has_parameters { quote_spanned!(span=> params) } else { quote_spanned!(span=> _) };
    let enter = if exclusive {
        quote_spanned!(span=> let (scope, mut exclusive) = call.enter_exclusive().await?;)
    } else {
        quote_spanned!(span=> let scope = call.enter(#session).await?;)
    };
    quote_spanned! {span=>
        |mut call| __rt::Box::pin(async move {
            let #params: #params_ty = call.params()?;
            #enter
            #body
        })
    }
}

/// Lends one value. Where the session is held alone, a failure leaves it whole: the method was not entered.
fn lend_let(name: &Ident, lending: &TokenStream, exclusive: bool, span: Span) -> TokenStream {
    if !exclusive {
        return quote_spanned!(span=> let #name = #lending?;);
    }
    quote_spanned! {span=>
        let #name = match #lending {
            __rt::StdResult::Ok(lent) => lent,
            __rt::StdResult::Err(error) => {
                exclusive.finish();
                return __rt::StdResult::Err(error);
            }
        };
    }
}
