//! `impl Backend` and the entry that the linker collects.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{Ident, Type, parse_quote, spanned::Spanned};

use crate::{
    expand::{
        at, end, in_const, location, option, path_on,
        tool::{self, Callee},
    },
    model::{
        arg::Arg,
        backend::Backend,
        is_unit,
        lifecycle::{Hook, HookArg, Hooks},
        ok_type,
        tool::FreeTool,
    },
};

/// What a `#[backend]` block adds.
pub(crate) fn expand(backend: &Backend) -> TokenStream {
    let Backend { self_ty, name, description, version, config_section, cfgs, hooks, tools } = backend;
    let version =
        version.as_ref().map_or_else(|| quote!(::core::env!("CARGO_PKG_VERSION")), |version| quote!(#version));
    let about = About {
        name,
        description,
        version,
        kind: kind(hooks),
        config_section: config_section.as_deref(),
        free_tool_group: None,
        location: location(self_ty.span()),
    };
    let about = about.expand();
    let tools = tools.iter().map(|tool| tool::literal(tool, self_ty, Callee::Method(self_ty)));
    let types = associated_types(hooks);
    let methods =
        [Some(new(hooks, self_ty)), Some(warmup(hooks)), shutdown(hooks), Some(initialize(hooks)), cleanup(hooks)];
    let entry = entry(self_ty);
    let distinct = distinct(hooks);
    let items = quote! {
        #distinct
        impl __rt::Backend for #self_ty {
            #types
            #about
            const TOOLS: &'static [__rt::Tool<Self>] = &[#(#tools),*];
            #(#methods)*
        }
        #entry
    };
    in_const(cfgs, &items)
}

/// What a block with mistakes adds: enough of a backend for further blocks of the type to be judged on their own.
pub(crate) fn stand_in(backend: &Backend) -> TokenStream {
    let Backend { self_ty, cfgs, hooks, .. } = backend;
    let (session, shared) = (session_type(hooks), shared_type(hooks));
    let location = location(self_ty.span());
    let items = quote! {
        impl __rt::Backend for #self_ty {
            type Config = __rt::NoConfig;
            type SessionConfig = __rt::NoConfig;
            #session
            #shared
            const ABOUT: __rt::About = __rt::About {
                name: "",
                description: "",
                version: "",
                kind: __rt::BackendKind::Mixed,
                config_section: __rt::Option::None,
                free_tool_group: __rt::Option::None,
                location: #location,
            };
            const TOOLS: &'static [__rt::Tool<Self>] = &[];
            async fn new(_: Self::Config, _: &__rt::HookScope<Self, __rt::New>) -> __rt::Result<Self> {
                ::core::unreachable!()
            }
            async fn warmup(self: &__rt::Arc<Self>, _: &__rt::HookScope<Self, __rt::Warmup>) -> __rt::Result<Self::Shared> {
                ::core::unreachable!()
            }
            async fn initialize(
                self: &__rt::Arc<Self>,
                _: Self::SessionConfig,
                _: &__rt::HookScope<Self, __rt::Initialize>,
            ) -> __rt::Result<Self::Session> {
                ::core::unreachable!()
            }
        }
    };
    in_const(cfgs, &items)
}

/// What a free tool adds: a backend of one tool whose state is its configuration.
pub(crate) fn expand_free_tool(free: &FreeTool) -> TokenStream {
    let FreeTool { group, config_section, cfgs, tool } = free;
    let full_name = format!("{group}:{}", tool.name);
    let about = About {
        name: &full_name,
        description: &tool.description,
        version: quote!(::core::env!("CARGO_PKG_VERSION")),
        kind: quote!(Stateless),
        config_section: config_section.as_deref(),
        free_tool_group: Some(group),
        location: location(tool.name_span),
    };
    let about = about.expand();
    let config = tool.args.iter().find_map(|arg| if let Arg::Config(ty) = arg { Some(ty) } else { None });
    let (definition, config, make) = match config {
        Some(ty) => (quote!(struct __Free { config: #ty }), quote!(#ty), quote!(Self { config })),
        None => (
            quote!(
                struct __Free;
            ),
            quote!(__rt::NoConfig),
            quote!(Self),
        ),
    };
    let config_pattern =
        if free.tool.args.iter().any(|arg| matches!(arg, Arg::Config(_))) { quote!(config) } else { quote!(_) };
    let backend: Type = parse_quote!(__Free);
    let literal = tool::literal(tool, &backend, Callee::Function);
    let entry = entry(&backend);
    let no_sessions = no_sessions();
    let items = quote! {
        #definition
        impl __rt::Backend for __Free {
            type Config = #config;
            type SessionConfig = __rt::NoConfig;
            type Session = __rt::NoSession;
            type Shared = ();
            #about
            const TOOLS: &'static [__rt::Tool<Self>] = &[#literal];
            async fn new(#config_pattern: Self::Config, _: &__rt::HookScope<Self, __rt::New>) -> __rt::Result<Self> {
                __rt::StdResult::Ok(#make)
            }
            async fn warmup(self: &__rt::Arc<Self>, _: &__rt::HookScope<Self, __rt::Warmup>) -> __rt::Result<()> {
                __rt::StdResult::Ok(())
            }
            async fn initialize(
                self: &__rt::Arc<Self>,
                _: Self::SessionConfig,
                _: &__rt::HookScope<Self, __rt::Initialize>,
            ) -> __rt::Result<Self::Session> {
                #no_sessions
            }
        }
        #entry
    };
    in_const(cfgs, &items)
}

/// `const ABOUT`.
struct About<'a> {
    name: &'a str,
    description: &'a str,
    version: TokenStream,
    kind: TokenStream,
    config_section: Option<&'a str>,
    free_tool_group: Option<&'a str>,
    location: TokenStream,
}

impl About<'_> {
    fn expand(&self) -> TokenStream {
        let Self { name, description, version, kind, location, .. } = self;
        let (config_section, free_tool_group) = (option(self.config_section), option(self.free_tool_group));
        quote! {
            const ABOUT: __rt::About = __rt::About {
                name: #name,
                description: #description,
                version: #version,
                kind: __rt::BackendKind::#kind,
                config_section: #config_section,
                free_tool_group: #free_tool_group,
                location: #location,
            };
        }
    }
}

fn entry(backend: &Type) -> TokenStream {
    quote! {
        #[__rt::linkme::distributed_slice(__rt::BACKENDS)]
        #[linkme(crate = __rt::linkme)]
        static __ENTRY: __rt::BackendEntry = __rt::BackendEntry::of::<#backend>();
    }
}

fn kind(hooks: &Hooks) -> TokenStream {
    match (hooks.warmup.is_some() || hooks.shutdown.is_some(), hooks.initialize.is_some()) {
        (false, false) => quote!(Stateless),
        (true, false) => quote!(Shared),
        (false, true) => quote!(Session),
        (true, true) => quote!(Mixed),
    }
}

fn associated_types(hooks: &Hooks) -> TokenStream {
    let config =
        |hook: Option<&Hook>| hook.and_then(Hook::value).map_or_else(|| quote!(__rt::NoConfig), |ty| quote!(#ty));
    let (config, session_config) = (config(hooks.new.as_ref()), config(hooks.initialize.as_ref()));
    let (session, shared) = (session_type(hooks), shared_type(hooks));
    quote! {
        type Config = #config;
        type SessionConfig = #session_config;
        #session
        #shared
    }
}

fn session_type(hooks: &Hooks) -> TokenStream {
    returned("Session", hooks.initialize.as_ref(), &quote!(__rt::NoSession))
}

fn shared_type(hooks: &Hooks) -> TokenStream {
    returned("Shared", hooks.warmup.as_ref(), &quote!(()))
}

/// `type Name = ..;`, what a lifecycle method returns in `Ok`.
fn returned(name: &str, hook: Option<&Hook>, otherwise: &TokenStream) -> TokenStream {
    let Some(output) = hook.and_then(|hook| hook.output.as_ref()) else {
        let name = format_ident!("{name}");
        return quote!(type #name = #otherwise;);
    };
    let name = Ident::new(name, at(output.span()));
    // Spelled `Result<T, ..>`, it is `T`; a wrong guess does not compile. Asking the type system each time would make
    // a wrong error type a mistake of everything that mentions the session.
    let ty = match ok_type(output) {
        Some(ty) => quote!(#ty),
        None => path_on(output, &quote_spanned!(output.span()=> __rt::HookResult), "Value"),
    };
    quote_spanned!(at(output.span())=> type #name = #ty;)
}

/// Refuses a session and a shared state of one type under two names: a trait, whose name is the message, cannot be
/// implemented twice. Without it each borrow would be ambiguous, in the compiler's words.
fn distinct(hooks: &Hooks) -> Option<TokenStream> {
    let (session, shared) = (hooks.session()?, hooks.shared()?);
    // A `()` is nothing to borrow.
    if is_unit(session) || is_unit(shared) {
        return None;
    }
    let implementation =
        |ty: &Type| quote_spanned!(at(ty.span())=> impl SessionAndSharedStateMustBeTwoTypes for #ty {});
    let (session, shared) = (implementation(session), implementation(shared));
    Some(quote! {
        trait SessionAndSharedStateMustBeTwoTypes {}
        #session
        #shared
    })
}

/// The call of a lifecycle method: what is lent before it, and its result.
fn call(hook: &Hook, phase: &str, receiver: Option<TokenStream>, by_value: &str) -> (TokenStream, TokenStream) {
    let phase = format_ident!("{phase}");
    let mut lets = Vec::new();
    let mut values: Vec<TokenStream> = receiver.into_iter().collect();
    for (index, arg) in hook.args.iter().enumerate() {
        match arg {
            HookArg::Value(ty) | HookArg::Session(ty) => {
                let name = Ident::new(by_value, at(ty.span()));
                values.push(quote!(#name));
            }
            HookArg::Lent(ty) => {
                let lent = format_ident!("lent_{index}");
                let lending = path_on(
                    ty,
                    &quote_spanned!(ty.span()=> __rt::Lend<__rt::HookScope<Self, __rt::#phase>, _>),
                    "lend",
                );
                lets.push(quote!(let #lent = #lending(scope)?;));
                values.push(quote!(&#lent));
            }
        }
    }
    let (ident, output) = (&hook.ident, &hook.output);
    let wait = hook.is_async.then(|| quote!(.await));
    let called = quote_spanned!(at(ident.span())=> Self::#ident(#(#values),*)#wait);
    let into_result =
        output.as_ref().map(|output| path_on(output, &quote_spanned!(output.span()=> __rt::HookResult), "into_result"));
    // Closed under the end of the type, so that what is wrong with it is said there and not on the whole block.
    let result = quote_spanned!(end(output)=> #into_result(#called));
    (quote!(#(#lets)*), result)
}

fn new(hooks: &Hooks, self_ty: &Type) -> TokenStream {
    let Some(hook) = &hooks.new else {
        let make = path_on(self_ty, &quote_spanned!(self_ty.span()=> __rt::MadeWithoutNew), "make");
        let default = quote_spanned!(end(self_ty)=> #make());
        return quote! {
            async fn new(_: Self::Config, _: &__rt::HookScope<Self, __rt::New>) -> __rt::Result<Self> {
                __rt::StdResult::Ok(#default)
            }
        };
    };
    let (lets, result) = call(hook, "New", None, "config");
    let (config, scope) = (pattern("config", hook.value().is_some()), pattern("scope", !lets.is_empty()));
    quote_spanned! {at(hook.ident.span())=>
        async fn new(#config: Self::Config, #scope: &__rt::HookScope<Self, __rt::New>) -> __rt::Result<Self> {
            #lets
            #result
        }
    }
}

/// The name of an argument, or `_name` where nothing uses it.
fn pattern(name: &str, used: bool) -> Ident {
    if used { format_ident!("{name}") } else { format_ident!("_{name}") }
}

fn warmup(hooks: &Hooks) -> TokenStream {
    let Some(hook) = &hooks.warmup else {
        return quote! {
            async fn warmup(self: &__rt::Arc<Self>, _: &__rt::HookScope<Self, __rt::Warmup>) -> __rt::Result<Self::Shared> {
                __rt::StdResult::Ok(())
            }
        };
    };
    let (lets, result) = call(hook, "Warmup", Some(quote!(self)), "");
    let scope = pattern("scope", !lets.is_empty());
    quote_spanned! {at(hook.ident.span())=>
        async fn warmup(self: &__rt::Arc<Self>, #scope: &__rt::HookScope<Self, __rt::Warmup>) -> __rt::Result<Self::Shared> {
            #lets
            #result
        }
    }
}

fn shutdown(hooks: &Hooks) -> Option<TokenStream> {
    let hook = hooks.shutdown.as_ref()?;
    let (lets, result) = call(hook, "Shutdown", Some(quote!(self)), "shared");
    let (shared, scope) = (pattern("shared", hook.value().is_some()), pattern("scope", !lets.is_empty()));
    Some(quote_spanned! {at(hook.ident.span())=>
        async fn shutdown(
            self: &__rt::Arc<Self>,
            #shared: Self::Shared,
            #scope: &__rt::HookScope<Self, __rt::Shutdown>,
        ) -> __rt::Result<()> {
            #lets
            #result
        }
    })
}

fn no_sessions() -> TokenStream {
    quote!(__rt::StdResult::Err(__rt::ToolError::execution("this backend has no sessions")))
}

fn initialize(hooks: &Hooks) -> TokenStream {
    let Some(hook) = &hooks.initialize else {
        let no_sessions = no_sessions();
        return quote! {
            async fn initialize(
                self: &__rt::Arc<Self>,
                _: Self::SessionConfig,
                _: &__rt::HookScope<Self, __rt::Initialize>,
            ) -> __rt::Result<Self::Session> {
                #no_sessions
            }
        };
    };
    let (lets, result) = call(hook, "Initialize", Some(quote!(self)), "config");
    let (config, scope) = (pattern("config", hook.value().is_some()), pattern("scope", !lets.is_empty()));
    quote_spanned! {at(hook.ident.span())=>
        async fn initialize(
            self: &__rt::Arc<Self>,
            #config: Self::SessionConfig,
            #scope: &__rt::HookScope<Self, __rt::Initialize>,
        ) -> __rt::Result<Self::Session> {
            #lets
            #result
        }
    }
}

fn cleanup(hooks: &Hooks) -> Option<TokenStream> {
    let hook = hooks.cleanup.as_ref()?;
    let (lets, result) = call(hook, "Cleanup", Some(quote!(self)), "value");
    let scope = pattern("scope", !lets.is_empty());
    // What fails with the session still in its place is tried again.
    let body = if hook.value().is_some() {
        quote! {
            let __rt::Option::Some(value) = session.take() else { return __rt::StdResult::Ok(()) };
            #result
        }
    } else {
        quote! {
            let __rt::Option::Some(value) = session.as_mut() else { return __rt::StdResult::Ok(()) };
            #result?;
            *session = __rt::Option::None;
            __rt::StdResult::Ok(())
        }
    };
    Some(quote_spanned! {at(hook.ident.span())=>
        async fn cleanup(
            self: &__rt::Arc<Self>,
            session: &mut __rt::Option<Self::Session>,
            #scope: &__rt::HookScope<Self, __rt::Cleanup>,
        ) -> __rt::Result<()> {
            #lets
            #body
        }
    })
}
