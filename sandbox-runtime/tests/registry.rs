//! What stops a start, and what a configuration switches on and off: hand-written backends through the public API.

#![expect(clippy::unwrap_used, reason = "a test says where it fails")]

use std::sync::Arc;

use sandbox_runtime::{
    backend::{About, Backend, BackendKind, Location, NoConfig, NoSession},
    config::Config,
    executor::ToolExecutor,
    host::{Host, HostError},
    linked::Linked,
    location,
    prelude::*,
    scope::{HookScope, Initialize, New, Warmup},
    slice::{BackendEntry, ToolBlock},
    tool::{Call, ParameterDefault, SessionUse, Tool, ToolFuture, ToolResult},
    types::ExecuteRequest,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const fn about(name: &'static str, location: Location) -> About {
    About {
        name,
        description: "For tests.",
        version: "0",
        kind: BackendKind::Stateless,
        config_section: None,
        free_tool_group: None,
        location,
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default)]
    #[expect(dead_code, reason = "its schema is what counts")]
    count: u8,
}

const fn tool<B: Backend>(name: &'static str, location: Location) -> Tool<B> {
    Tool::new::<Params, &'static str>(name, "For tests.", SessionUse::None, run::<B>, location)
}

fn run<B: Backend>(call: Call<B>) -> ToolFuture {
    Box::pin(async move {
        let _scope = call.enter(SessionUse::None).await?;
        let name: Result<&str> = Ok(B::ABOUT.name);
        name.into_output()
    })
}

/// A backend without state; `$about` holds what differs from [`about`], and `$config` is its configuration.
macro_rules! backend {
    ($type:ident, $name:literal, { $($about:tt)* }, [$($tool:expr),*]) => {
        backend!($type, $name, { $($about)* }, [$($tool),*], NoConfig);
    };
    ($type:ident, $name:literal, { $($about:tt)* }, [$($tool:expr),*], $config:ty) => {
        struct $type;
        impl Backend for $type {
            type Config = $config;
            type SessionConfig = NoConfig;
            type Session = NoSession;
            type Shared = ();
            const ABOUT: About = About { $($about)* ..about($name, location!()) };
            const TOOLS: &'static [Tool<Self>] = &[$($tool),*];
            async fn new(_: $config, _: &HookScope<Self, New>) -> Result<Self> {
                Ok(Self)
            }
            async fn warmup(self: &Arc<Self>, _: &HookScope<Self, Warmup>) -> Result<()> {
                Ok(())
            }
            async fn initialize(self: &Arc<Self>, _: NoConfig, _: &HookScope<Self, Initialize>) -> Result<NoSession> {
                Err(ToolError::execution("there are no sessions"))
            }
        }
    };
}

/// These backends, without `#[tools]` blocks.
macro_rules! linked {
    ($($type:ty),*) => { Linked::of([$(BackendEntry::of::<$type>()),*], []) };
}

fn config(config: Value) -> Config {
    serde_json::from_value(config).unwrap()
}

/// What stops the start.
fn errors(linked: &Linked, configuration: Value) -> Vec<String> {
    match Host::check(&config(configuration), linked) {
        Err(HostError::Registry(errors)) => errors.0,
        Err(other) => panic!("{other}"),
        Ok(_) => Vec::new(),
    }
}

/// The one error there is; it holds all of these, and as many places of this file.
fn one_error(linked: &Linked, configuration: Value, places: usize, parts: &[&str]) {
    let errors = errors(linked, configuration);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    for part in parts {
        assert!(errors[0].contains(part), "no {part:?} in {errors:#?}");
    }
    let place = concat!("crate ", env!("CARGO_PKG_NAME"), " (sandbox-runtime/tests/registry.rs:");
    assert_eq!(errors[0].matches(place).count(), places, "{errors:#?}");
}

fn names(executor: &ToolExecutor) -> Vec<&str> {
    executor.registry().tools().filter(|tool| tool.is_on()).map(|tool| tool.info.full_name.as_str()).collect()
}

/// Code, reason and message, or the data.
fn call(host: &Host, action: &str) -> (u16, Option<String>, String) {
    let (executor, request) = (host.executor().clone(), ExecuteRequest::new(WorkerId::parse("w").unwrap(), action));
    let answer = host.handle().block_on(async move { executor.execute(request, Vec::new()).await });
    let reason = answer.error.as_ref().and_then(|error| error.reason.clone());
    let text = answer.data.as_ref().map_or_else(|| answer.message.to_string(), |data| data.get().to_owned());
    (answer.code.number(), reason, text)
}

backend!(One, "one", {}, [tool("go", location!()), tool("stay", location!())]);
backend!(Two, "two", {}, [tool("go", location!())]);

#[test]
fn a_start_that_needs_nothing_more_succeeds() {
    let both = json!({ "resources": { "one": {}, "two": {} } });
    assert_eq!(errors(&linked!(One, Two), both.clone()), Vec::<String>::new());
    let host = Host::start(&config(both), &linked!(One, Two)).unwrap();
    for spelling in ["two:go", "two.go", "two_go", "two-go", "two__go"] {
        assert_eq!(call(&host, spelling).2, "\"two\"", "{spelling}");
    }
    assert_eq!(call(&host, "go").1.as_deref(), Some("ambiguous_tool"));
}

mod aliases {
    use super::*;

    macro_rules! alias {
        ($type:ident, $name:literal, $alias:literal) => {
            backend!($type, $name, {}, [Tool { aliases: &[$alias], ..tool("act", location!()) }]);
        };
    }
    alias!(Spelling, "alias_spelling", "two_go");
    alias!(Dashed, "alias_full", "two:go");
    alias!(Simple, "alias_simple", "stay");
    alias!(Shared, "alias_shared", "shared");
    alias!(SharedToo, "alias_shared_too", "shared");
    alias!(Own, "own", "own_act");
    alias!(Full, "full", "old:act");
    alias!(Broken, "broken", "old:new:act");

    #[test]
    fn of_another_tools_spelling() {
        let config = json!({ "resources": { "two": {}, "alias_spelling": {} } });
        let parts = ["alias `two_go` of tool `alias_spelling:act`", "a spelling of tool `two:go`"];
        one_error(&linked!(Two, Spelling), config, 2, &parts);
    }

    #[test]
    fn of_another_tools_simple_name() {
        let config = json!({ "resources": { "one": {}, "alias_simple": {} } });
        let parts = ["alias `stay` of tool `alias_simple:act`", "the name of tool `one:stay`"];
        one_error(&linked!(One, Simple), config, 2, &parts);
    }

    #[test]
    fn of_another_tools_full_name() {
        let config = json!({ "resources": { "two": {}, "alias_full": {} } });
        let parts = ["alias `two:go` of tool `alias_full:act`", "is the full name of tool `two:go`"];
        one_error(&linked!(Two, Dashed), config, 2, &parts);
    }

    #[test]
    fn may_be_a_full_name() {
        let host = Host::start(&config(json!({ "resources": { "full": {} } })), &linked!(Full)).unwrap();
        for name in ["old:act", "old.act", "old_act", "old-act", "old__act", "act", "full:act"] {
            assert_eq!(call(&host, name).2, "\"full\"", "{name}");
        }
        one_error(&linked!(Broken), json!({ "resources": { "broken": {} } }), 1, &["alias `old:new:act`"]);
    }

    #[test]
    fn of_another_tool() {
        let config = json!({ "resources": { "alias_shared": {}, "alias_shared_too": {} } });
        let parts = ["alias `shared` belongs to two tools", "`alias_shared:act`", "`alias_shared_too:act`"];
        one_error(&linked!(Shared, SharedToo), config, 2, &parts);
    }

    #[test]
    fn a_tool_that_is_not_offered_collides_with_none() {
        let resources = json!({ "two": { "tools": { "deny": ["two:go"] } }, "alias_spelling": {} });
        assert_eq!(errors(&linked!(Two, Spelling), json!({ "resources": resources })), Vec::<String>::new());
    }

    #[test]
    fn one_tool_of_two_resources_shares_its_own() {
        let resources = json!({ "own": {}, "other": { "backend": "own" } });
        let host = Host::start(&config(json!({ "resources": resources })), &linked!(Own)).unwrap();
        assert_eq!(call(&host, "own_act").2, "\"own\"", "its own spelling, before the alias of both");
    }
}

backend!(Wide, "a", {}, [tool("b_c", location!())]);
backend!(Long, "a_b", {}, [tool("c", location!())]);

#[test]
fn two_tools_with_one_spelling() {
    let config = json!({ "resources": { "a": {}, "a_b": {} } });
    one_error(&linked!(Wide, Long), config, 2, &["`a:b_c`", "`a_b:c`", "are both spelled `a_b_c`"]);
}

mod duplicates {
    use super::*;

    backend!(First, "dup:x", { free_tool_group: Some("dup"), }, [tool("x", location!())]);
    backend!(Second, "dup:x", { free_tool_group: Some("dup"), }, [tool("x", location!())]);
    backend!(Twin, "one", {}, [tool("go", location!())]);
    backend!(Section, "web", { config_section: Some("apis.k"), }, [tool("visit", location!())]);
    backend!(SectionTwin, "web", { config_section: Some("apis.k"), }, [tool("visit", location!())]);
    backend!(Inside, "inside", {}, [tool("x", location!()), tool("x", location!())]);
    backend!(Free, "one:go", { free_tool_group: Some("one"), }, [tool("go", location!())]);

    #[test]
    fn two_free_tools() {
        let places = ["tool `dup:x` stands twice"];
        one_error(&linked!(First, Second), json!({}), 2, &places);
        one_error(&linked!(Second, First), json!({}), 2, &places);
    }

    #[test]
    fn a_free_tool_and_one_of_a_resource() {
        one_error(&linked!(One, Free), json!({ "resources": { "one": {} } }), 2, &["tool `one:go` stands twice"]);
    }

    #[test]
    fn two_backends() {
        one_error(&linked!(One, Twin), json!({ "resources": { "one": {} } }), 2, &["backend `one` stands twice"]);
        let config = json!({ "apis": { "k": {} } });
        one_error(&linked!(Section, SectionTwin), config, 2, &["backend `web` stands twice"]);
    }

    #[test]
    fn two_tools_of_one_backend() {
        let config = json!({ "resources": { "inside": {}, "again": { "backend": "inside" } } });
        one_error(&linked!(Inside), config, 2, &["tool `x` of backend `inside` stands twice"]);
    }

    #[test]
    fn a_block_adds_a_tool_that_is_there() {
        static TOOLS: &[Tool<One>] = &[tool("go", location!())];
        let linked = Linked::of([BackendEntry::of::<One>()], [ToolBlock::of::<One>(&TOOLS, location!())]);
        one_error(&linked, json!({}), 2, &["tool `go` of backend `one` stands twice"]);
    }
}

#[test]
fn a_block_of_a_backend_that_is_not_linked() {
    static TOOLS: &[Tool<Two>] = &[tool("more", location!())];
    let linked = Linked::of([BackendEntry::of::<One>()], [ToolBlock::of::<Two>(&TOOLS, location!())]);
    one_error(&linked, json!({}), 1, &["`#[tools]` block", "Two"]);
    let linked = Linked::of([BackendEntry::of::<Two>()], [ToolBlock::of::<Two>(&TOOLS, location!())]);
    let executor = Host::check(&config(json!({ "resources": { "two": {} } })), &linked).unwrap();
    assert_eq!(names(&executor), ["two:go", "two:more"]);
}

#[test]
fn a_configured_backend_that_is_not_linked() {
    one_error(
        &linked!(One),
        json!({ "resources": { "two": {} } }),
        0,
        &["resources.two", "`one` (crate", "use two_backend as _;"],
    );
}

mod bad_names {
    use super::*;

    backend!(Named, "a__b", {}, [tool("C d", location!())]);
    backend!(Parts, "parts", {}, [Tool { aliases: &["good", "B!"], group: Some("a-b"), ..tool("act", location!()) }]);
    backend!(Group, "G:x", { free_tool_group: Some("G"), config_section: Some("apis.A b"), }, [tool("x", location!())]);

    #[test]
    fn of_a_backend_and_its_tools() {
        let errors = errors(&linked!(Named), json!({}));
        assert_eq!(errors.len(), 2, "{errors:#?}");
        assert!(errors[0].contains("found backend `a__b`") && errors[0].contains("registry.rs:"), "{errors:#?}");
        assert!(errors[1].contains("found name `C d`") && errors[1].contains("registry.rs:"), "{errors:#?}");
    }

    #[test]
    fn of_aliases_and_groups_once_for_all_resources() {
        let config = json!({ "resources": { "parts": {}, "again": { "backend": "parts" } } });
        let errors = errors(&linked!(Parts), config);
        assert_eq!(errors.len(), 2, "{errors:#?}");
        assert!(errors[0].contains("found alias `B!`") && errors[0].contains("tool `act`"), "{errors:#?}");
        assert!(errors[1].contains("found group `a-b`") && errors[1].contains("registry.rs:"), "{errors:#?}");
    }

    #[test]
    fn of_a_free_tools_group_and_section() {
        let errors = errors(&linked!(Group), json!({}));
        assert_eq!(errors.len(), 2, "{errors:#?}");
        assert!(errors[0].contains("found group `G`"), "{errors:#?}");
        assert!(errors[1].contains("found key of `apis` `A b`"), "{errors:#?}");
    }
}

backend!(
    Defaults,
    "defaults",
    {},
    [Tool { defaults: &[ParameterDefault::of::<u8>("count", "300")], ..tool("act", location!()) }]
);

#[test]
fn a_wrong_default() {
    one_error(&linked!(Defaults), json!({ "resources": { "defaults": {} } }), 1, &["tool `defaults:act`", "300"]);
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeyAndCount {
    key: String,
    count: Option<u32>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeyAndName {
    key: String,
    name: Option<String>,
}

mod sections {
    use super::*;

    backend!(
        Search, "web:search", { free_tool_group: Some("web"), config_section: Some("apis.k"), },
        [tool("search", location!())], KeyAndCount
    );
    backend!(
        Find, "web:find", { free_tool_group: Some("web"), config_section: Some("apis.k"), },
        [tool("find", location!())], KeyAndName
    );
    backend!(Visit, "web", { config_section: Some("apis.k"), }, [tool("visit", location!())], KeyAndName);

    #[test]
    fn are_shared_by_tools_that_each_take_their_part() {
        let linked = linked!(Search, Find, Visit);
        let section = json!({ "apis": { "k": { "key": "s", "count": 3, "name": "n" } } });
        let host = Host::start(&config(section), &linked).unwrap();
        assert_eq!(names(host.executor()), ["web:find", "web:search", "web:visit"]);
        for (tool, backend) in [("find", "\"web:find\""), ("search", "\"web:search\""), ("visit", "\"web\"")] {
            assert_eq!(call(&host, tool), (0, None, backend.to_owned()));
        }
    }

    #[test]
    fn are_checked_for_each_tool() {
        let errors = errors(&linked!(Search, Find, Visit), json!({ "apis": { "k": { "key": "s", "count": "many" } } }));
        assert_eq!(errors.len(), 1, "only one of them knows the key: {errors:#?}");
        assert!(errors[0].starts_with("apis.k.count: "), "{errors:#?}");
    }

    #[test]
    fn that_are_absent_switch_their_tools_off() {
        let host = Host::start(&config(json!({})), &linked!(Search, Visit)).unwrap();
        assert_eq!(names(host.executor()), [""; 0]);
        for name in ["web:search", "web_search", "search", "web:visit", "visit"] {
            let (code, reason, message) = call(&host, name);
            assert_eq!((code, reason.as_deref()), (4002, Some("not_configured")), "{name}: {message}");
            assert!(message.contains("`apis.k`"), "{message}");
        }
        assert!(host.executor().resources().is_empty());
        // What is off is no candidate either.
        assert!(!call(&host, "web:serch").2.contains("did you mean"));
    }

    #[test]
    fn a_backend_of_a_section_may_be_a_resource_instead_but_not_both() {
        let resource = json!({ "web": { "config": { "key": "s" } } });
        let executor = Host::check(&config(json!({ "resources": resource })), &linked!(Visit)).unwrap();
        assert_eq!(names(&executor), ["web:visit"]);
        let both = json!({ "resources": resource, "apis": { "k": { "key": "s" } } });
        one_error(&linked!(Visit), both, 0, &["resources.web: ", "switched on by `apis.k`"]);
        let wrong = json!({ "resources": { "web": { "config": {} } } });
        one_error(&linked!(Visit), wrong, 0, &["resources.web.config: ", "`key`"]);
    }

    #[test]
    fn a_tool_that_is_off_takes_no_name_from_one_that_is_on() {
        backend!(Other, "other", {}, [tool("search", location!())]);
        let host = Host::start(&config(json!({ "resources": { "other": {} } })), &linked!(Search, Other)).unwrap();
        assert_eq!(call(&host, "search").2, "\"other\"");
    }
}

mod choice {
    use super::*;

    backend!(
        Grouped,
        "grouped",
        {},
        [
            Tool { group: Some("eyes"), ..tool("see", location!()) },
            Tool { group: Some("ears"), ..tool("hear", location!()) },
            tool("rest", location!())
        ]
    );

    fn offered(resource: &Value) -> Vec<String> {
        let config = config(json!({ "resources": { "r": resource } }));
        let executor = Host::check(&config, &linked!(Grouped)).unwrap();
        names(&executor).into_iter().map(|name| name.trim_start_matches("r:").to_owned()).collect()
    }

    #[test]
    fn of_groups_and_tools_by_simple_or_full_name() {
        for (choice, left) in [
            (json!({}), &["hear", "rest", "see"][..]),
            (json!({ "groups": ["eyes"] }), &["rest", "see"]),
            (json!({ "tools": { "allow": ["see", "r:rest"] } }), &["rest", "see"]),
            (json!({ "tools": { "deny": ["r:see", "hear"] } }), &["rest"]),
            (json!({ "tools": { "allow": ["r:see", "hear"], "deny": ["see"] } }), &["hear"]),
            (json!({ "groups": ["ears"], "tools": { "deny": ["r:rest"] } }), &["hear"]),
            (json!({ "tools": { "allow": [] } }), &[]),
        ] {
            let mut resource = choice.clone();
            resource["backend"] = json!("grouped");
            assert_eq!(offered(&resource), left, "{choice}");
        }
    }

    #[test]
    fn of_what_there_is_not() {
        let resource = json!({ "backend": "grouped", "groups": ["eye"], "tools": {
            "allow": ["r:see", "r:heer"], "deny": ["other:see"],
        } });
        let errors = errors(&linked!(Grouped), json!({ "resources": { "r": resource } }));
        assert_eq!(
            errors,
            [
                "resources.r.groups: no tool is in group `eye`; groups are: ears, eyes",
                "resources.r.tools.allow[1]: there is no tool `r:heer`; did you mean `hear`?",
                "resources.r.tools.deny[0]: there is no tool `other:see`",
            ]
        );
    }
}

#[tokio::test]
async fn a_start_that_fails_inside_async_code_answers_why() {
    let wrong = config(json!({ "resources": { "nowhere": {} } }));
    assert!(matches!(Host::start(&wrong, &linked!(One)), Err(HostError::Registry(_))));
    assert!(matches!(Host::check(&wrong, &linked!(One)), Err(HostError::Registry(_))));
    let right = config(json!({ "resources": { "one": {} } }));
    Host::check(&right, &linked!(One)).unwrap();
    let host = Host::start(&right, &linked!(One)).unwrap();
    drop(host);
}

#[test]
fn an_unknown_resource_is_not_echoed_whole() {
    let host = Host::start(&config(json!({ "resources": { "one": {} } })), &linked!(One)).unwrap();
    let executor = host.executor().clone();
    let ask = |resource: &str| serde_json::from_value(json!({ "worker_id": "w", "resource_type": resource })).unwrap();
    let error = executor.destroy_session(&ask(&"x".repeat(1 << 20))).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NOT_FOUND);
    assert!(error.message().len() < 200, "{} bytes", error.message().len());
    let error = executor.destroy_session(&ask("ome")).unwrap_err();
    assert_eq!(error.body().candidates.as_deref(), Some(&["one".to_owned()][..]));
}
