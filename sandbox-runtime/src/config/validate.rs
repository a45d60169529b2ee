//! The rules that concern several keys, or that a JSON Schema cannot say.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::naming::is_name;

use super::{
    ResourceConfig, ServerConfig, TokenHash, WarmupConfig,
    error::{Report, did_you_mean},
};

/// Levels that `server.log.level` names.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks each of `server.tokens` by itself: the typed parse would end at the first that is wrong.
pub(crate) fn tokens(document: &Value, report: &mut Report) {
    for (index, token) in document["server"]["tokens"].as_array().into_iter().flatten().enumerate() {
        let path = format!("server.tokens[{index}]");
        if let Some(Err(error)) = token.as_str().map(str::parse::<TokenHash>)
            && !report.has(&path)
        {
            report.add(&path, TokenHash::EXPECTED, error.found(), "");
        }
    }
}

/// Checks the rules of the `server` section; a rule between keys is left out where one of them has been reported.
pub(crate) fn server(server: &ServerConfig, report: &mut Report) {
    let has_right =
        |report: &Report, keys: [&str; 2]| !keys.iter().any(|key| report.has_within(&format!("server.{key}")));
    if server.host.trim().is_empty() {
        report.add("server.host", "an address or a host name", "an empty string", "127.0.0.1 is this machine only");
    } else if !server.is_loopback() && server.tokens.is_empty() && has_right(report, ["host", "tokens"]) {
        report.add(
            "server.tokens",
            &format!("at least one token, since `server.host` {:?} can be reached from other machines", server.host),
            "none",
            "add one, or listen on 127.0.0.1",
        );
    }
    let has_timeouts = has_right(report, ["default_timeout_seconds", "max_timeout_seconds"]);
    if has_timeouts && server.default_timeout_seconds > server.max_timeout_seconds {
        report.add(
            "server.default_timeout_seconds",
            &format!("a number at most `server.max_timeout_seconds` ({})", server.max_timeout_seconds),
            &format!("number {}", server.default_timeout_seconds),
            "lower it, or raise the maximum",
        );
    }
    // Two times 0 is two free ones.
    let same = server.control_port.filter(|port| *port != 0 && *port == server.port);
    if let Some(port) = same.filter(|_| has_right(report, ["port", "control_port"])) {
        let found = format!("number {port}, which is `server.port`");
        report.add("server.control_port", "another port than `server.port`", &found, "choose a free one, or 0 for any");
    }
    for (index, host) in server.allowed_hosts.iter().enumerate() {
        if host.is_empty() || host.contains(['/', ' ']) {
            let path = format!("server.allowed_hosts[{index}]");
            report.add(
                &path,
                "a host name as in a `Host` header",
                &format!("string {host:?}"),
                "leave out scheme and path",
            );
        }
    }
    for (index, origin) in server.allowed_origins.iter().enumerate() {
        let host = origin.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, host)| host);
        if host.is_none_or(|host| host.is_empty() || host.contains(['/', ' ', '*'])) {
            let path = format!("server.allowed_origins[{index}]");
            let expected = "an origin `scheme://host[:port]` without a path";
            report.add(
                &path,
                expected,
                &format!("string {origin:?}"),
                "write it as browsers send it, such as https://example.org",
            );
        }
    }
    log_level(&server.log.level, report);
}

fn log_level(level: &str, report: &mut Report) {
    for directive in level.split(',').map(str::trim) {
        let wanted = directive.rsplit('=').next().unwrap_or(directive).trim();
        if !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(wanted)) {
            let advice = did_you_mean(wanted, &LEVELS);
            report.add(
                "server.log.level",
                "levels, each alone or as `target=level`",
                &format!("string {directive:?}"),
                &advice,
            );
        }
    }
}

/// Checks the names of the resources.
pub(crate) fn resources(resources: &BTreeMap<String, ResourceConfig>, report: &mut Report) {
    for name in resources.keys().filter(|name| !is_name(name)) {
        report.add(
            &format!("resources.{name}"),
            "a name `[a-z][a-z0-9_]*` without `__`",
            "another one",
            "rename the resource; it is the prefix of its tools",
        );
    }
}

/// Checks that what is to be warmed up exists.
pub(crate) fn warmup(warmup: &WarmupConfig, resources: &BTreeMap<String, ResourceConfig>, report: &mut Report) {
    for (index, name) in warmup.resources.iter().flatten().enumerate() {
        let found = match resources.get(name) {
            Some(resource) if resource.enabled => continue,
            Some(_) => format!("`{name}`, which is not enabled"),
            None => format!("`{name}`, which is not configured"),
        };
        let enabled: Vec<_> =
            resources.iter().filter(|(_, resource)| resource.enabled).map(|(name, _)| name.as_str()).collect();
        let advice =
            if enabled.is_empty() { "no resource is enabled".to_owned() } else { did_you_mean(name, &enabled) };
        report.add(&format!("warmup.resources[{index}]"), "the name of an enabled resource", &found, &advice);
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, ResourceConfig, ServerConfig, WarmupConfig};

    fn server_errors(change: impl FnOnce(&mut ServerConfig)) -> String {
        let mut server = ServerConfig::default();
        change(&mut server);
        let mut report = Report::default();
        super::server(&server, &mut report);
        report.finish().map_or_else(|errors| errors.to_string(), |()| String::new())
    }

    #[test]
    fn the_rules_of_the_server_section() {
        assert_eq!(server_errors(|_| ()), "");
        assert!(server_errors(|s| s.host = " ".into()).starts_with("server.host: "));
        assert!(server_errors(|s| s.host = "0.0.0.0".into()).starts_with("server.tokens: expected at least one token"));
        let tokens = vec!["t".parse().expect("is right")];
        assert_eq!(server_errors(|s| (s.host, s.tokens) = ("0.0.0.0".into(), tokens)), "");
        assert!(server_errors(|s| s.max_timeout_seconds = 54.0).contains("found number 55"));
        assert_eq!(server_errors(|s| s.max_timeout_seconds = 55.0), "");
        assert_eq!(
            server_errors(|s| s.control_port = Some(18890)),
            "server.control_port: expected another port than `server.port`, found number 18890, which is `server.port`; \
             choose a free one, or 0 for any"
        );
        assert_eq!(server_errors(|s| (s.port, s.control_port) = (0, Some(0))), "");
        assert_eq!(
            server_errors(|s| s.allowed_origins = vec!["https://a.b:1".into(), "chrome-extension://x".into()]),
            ""
        );
        for origin in ["a.b", "https://a.b/", "https://*.b", "https://"] {
            assert!(
                server_errors(|s| s.allowed_origins = vec![origin.into()]).contains("allowed_origins[0]"),
                "{origin}"
            );
        }
        assert!(server_errors(|s| s.allowed_hosts = vec!["a".into(), "http://a".into()]).contains("allowed_hosts[1]"));
        for level in ["info", "WARN", "info,sandbox_runtime::router=debug", "off"] {
            assert_eq!(server_errors(|s| s.log.level = level.into()), "", "{level}");
        }
        assert!(server_errors(|s| s.log.level = "info,x=debugg".into()).contains("did you mean `debug`?"));
        assert!(server_errors(|s| s.log.level = String::new()).contains("server.log.level"));
    }

    #[test]
    fn warmup_names_enabled_resources() {
        let resources = [("rag", true), ("vm", false)]
            .map(|(name, enabled)| (name.to_owned(), ResourceConfig { enabled, ..Default::default() }))
            .into();
        let warmup = WarmupConfig { enabled: true, resources: Some(["rag", "vm", "rga"].map(str::to_owned).into()) };
        let mut report = Report::default();
        super::warmup(&warmup, &resources, &mut report);
        let errors = report.finish().expect_err("must be refused").to_string();
        assert_eq!(
            errors,
            "warmup.resources[1]: expected the name of an enabled resource, found `vm`, which is not enabled; known are rag\n\
             warmup.resources[2]: expected the name of an enabled resource, found `rga`, which is not configured; did you mean `rag`?"
        );
    }
}
