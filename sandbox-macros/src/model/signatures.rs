//! What the model says of signatures, where the compiler is not needed to see it.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{ItemFn, ItemImpl, parse_quote};

use crate::{
    attr::ToolOptions,
    errors::Errors,
    model::{
        arg::{Arg, Resembles},
        backend::{Backend, ToolsBlock},
        lifecycle::HookArg,
        tool::FreeTool,
    },
};

fn backend(options: TokenStream, mut item: ItemImpl) -> (Option<Backend>, ItemImpl, Vec<String>) {
    let mut errors = Errors::default();
    let model = Backend::parse(options, &mut item, &mut errors);
    (model, item, errors.messages())
}

fn free_tool(options: TokenStream, mut function: ItemFn) -> (Option<FreeTool>, Vec<String>) {
    let mut errors = Errors::default();
    let options = ToolOptions::parse(options, &mut errors);
    let model = FreeTool::parse(options, &mut function.attrs, &mut function.sig, &mut errors);
    (model, errors.messages())
}

#[test]
fn a_block_is_read_and_stripped() {
    let (model, item, messages) = backend(
        quote!(name = "vm"),
        parse_quote! {
            /// A machine.
            impl Vm {
                fn new(config: Config) -> Result<Self> {}
                async fn initialize(&self, /** What. */ config: SessionConfig, w: &WorkerId) -> Result<Session> {}
                async fn cleanup(&self, _: &mut Session) -> Result<()> {}
                /// Click.
                #[tool(name = "press", timeout = "500ms")]
                #[inline]
                async fn click(&self, s: &mut Session, /** X. */ x: u32, #[default = 1] #[serde(rename(deserialize = "Y"))] y: u32) -> Result<()> {}
                fn helper(&self) {}
            }
        },
    );
    assert_eq!(messages, Vec::<String>::new());
    let model = model.unwrap();
    assert_eq!(model.description, "A machine.");
    assert!(!model.hooks.new.as_ref().unwrap().is_async);
    assert!(matches!(model.hooks.cleanup.as_ref().unwrap().args[..], [HookArg::Session(_)]));
    assert!(matches!(model.hooks.initialize.as_ref().unwrap().args[..], [HookArg::Value(_), HookArg::Lent(_)]));
    let [tool] = &model.tools[..] else { panic!("one tool") };
    assert_eq!(
        (tool.name.as_str(), tool.description.as_str(), tool.options.timeout_ms),
        ("press", "Click.", Some(500))
    );
    let [Arg::Exclusive(_), Arg::Parameter(x), Arg::Parameter(y)] = &tool.args[..] else { panic!("three arguments") };
    assert_eq!((x.wire_name.as_str(), x.attributes.len(), &x.default), ("x", 1, &None));
    assert_eq!((y.wire_name.as_str(), y.default.as_deref()), ("Y", Some("1")));
    let text = quote!(#item).to_string();
    assert!(text.contains("inline") && !text.contains("tool") && !text.contains("default") && !text.contains("serde"));
    assert!(!text.contains("X.") && !text.contains("What."), "{text}");
}

#[test]
fn a_name_may_stand_twice_under_cfg() {
    let block: ItemImpl = parse_quote! {
        impl Vm {
            /// Click.
            #[cfg(unix)]
            #[tool]
            async fn click(&self) -> Result<()> {}
            /// Click.
            #[cfg(windows)]
            #[tool]
            async fn click(&self) -> Result<()> {}
            /// Press.
            #[tool(alias = ["push", "push"])]
            async fn press(&self) -> Result<()> {}
        }
    };
    let mut errors = Errors::default();
    let model = ToolsBlock::parse(&TokenStream::new(), &mut block.clone(), &mut errors).unwrap();
    assert_eq!(model.tools.len(), 3);
    let messages = errors.messages();
    assert!(messages.len() == 1 && messages[0].contains("`push` stands twice"), "{messages:?}");
}

#[test]
fn the_config_of_a_free_tool_is_lent() {
    let function: ItemFn = parse_quote! {
        /// Search.
        async fn search(config: &Config, query: String, worker: &WorkerId) -> Result<()> {}
    };
    let (model, messages) = free_tool(quote!(name = "web:search", config = "apis.search"), function.clone());
    assert_eq!(messages, Vec::<String>::new());
    let model = model.unwrap();
    assert_eq!((model.group.as_str(), model.tool.name.as_str()), ("web", "search"));
    assert!(matches!(model.tool.args[..], [Arg::Config(_), Arg::Parameter(_), Arg::Lent(_)]));
    let (model, messages) = free_tool(quote!(name = "web:Search", config = "search"), function);
    assert!(model.is_none() && messages.len() == 2, "{messages:?}");
}

#[test]
fn what_no_parser_of_the_compiler_lets_through_is_refused_too() {
    let (_, messages) = free_tool(
        quote!(name = "c:printf", blocking),
        parse_quote! {
            /// Print.
            unsafe extern "C" fn printf(format: String, ...) -> Result<()> {}
        },
    );
    assert!(messages.iter().any(|message| message.contains("variadic")), "{messages:?}");
    assert!(messages.iter().any(|message| message.contains("`unsafe`")), "{messages:?}");
    assert!(messages.iter().any(|message| message.contains("`extern`")), "{messages:?}");
}

#[test]
fn attributes_of_parameters_have_no_place_in_hooks() {
    let (_, _, messages) = backend(
        quote!(name = "vm"),
        parse_quote! {
            impl Vm {
                fn new(#[default = 1] #[serde(default)] config: Config) -> Result<Self> {}
            }
        },
    );
    assert!(messages.len() == 2 && messages[0].contains("parameters of tools"), "{messages:?}");
}

#[test]
fn a_second_borrow_of_the_session_is_seen_where_it_is_spelled_alike() {
    let (_, _, messages) = backend(
        quote!(name = "vm"),
        parse_quote! {
            impl Vm {
                async fn initialize(&self) -> Result<Session> {}
                /// Look.
                #[tool]
                async fn look(&self, a: &Session, b: &Session, c: &Progress, d: &Progress) -> Result<()> {}
                /// Mix.
                #[tool]
                async fn mix(&self, a: &mut Session, b: &Session) -> Result<()> {}
            }
        },
    );
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages.iter().all(|message| message.contains("`Session` is borrowed twice")), "{messages:?}");
}

#[test]
fn a_helper_is_no_misspelt_hook() {
    let block: ItemImpl = parse_quote! {
        impl Vm {
            async fn initialise(&self) -> Result<Session> {}
            async fn warm_up(&self) -> Result<Pool> {}
            async fn clean(&self) -> Result<()> {}
            fn initialised(&self) -> bool {}
            /// Look.
            #[tool]
            async fn look(&self, session: &mut Session, other: &mut Pool, own: Arc<Pool>, also: Session, worker: a::WorkerId) -> Result<()> {}
            /// Shut down.
            #[tool]
            async fn shut_down(&self) -> Result<()> {}
        }
    };
    let (model, _, messages) = backend(quote!(name = "vm"), block);
    let expected = ["did you mean `warmup`?", "did you mean `initialize`?", "two arguments are borrowed by `&mut`"];
    assert_eq!(messages.len(), expected.len(), "{messages:?}");
    assert!(expected.iter().all(|expected| messages.iter().any(|message| message.contains(expected))), "{messages:?}");
    assert!(model.unwrap().hooks.shutdown.is_none());
}

#[test]
fn the_words_for_a_parameter_follow_its_spelling() {
    let block: ItemImpl = parse_quote! {
        impl Vm {
            async fn initialize(&self) -> Result<Session> {}
            async fn warmup(&self) -> Result<Pool> {}
            /// Look.
            #[tool]
            async fn look(&self, a: Arc<Pool>, b: Session, c: a::WorkerId, #[serde(default = "f")] d: Point) -> Result<()> {}
        }
    };
    let (model, _, messages) = backend(quote!(name = "vm"), block);
    assert_eq!(messages, Vec::<String>::new());
    let model = model.unwrap();
    let parameters = model.tools[0].args.iter().map(|arg| match arg {
        Arg::Parameter(parameter) => &**parameter,
        _ => panic!("a parameter"),
    });
    let [shared, session, injected, other] = &parameters.collect::<Vec<_>>()[..] else { panic!("four parameters") };
    assert!(matches!(shared.resembles, Resembles::Shared(_)) && matches!(session.resembles, Resembles::Session));
    assert!(matches!(injected.resembles, Resembles::Injected) && matches!(other.resembles, Resembles::Nothing));
    assert!(injected.plain && !other.plain);
}
