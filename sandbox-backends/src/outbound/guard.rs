//! Which private addresses the configuration allows.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::Deserialize;
use url::Host;

/// An entry of `allow_private`, read when the configuration is: one that cannot match must not pass in silence.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Allowed {
    /// Whom it means.
    target: Target,
    /// The only port it allows; every port if there is none.
    port: Option<u16>,
}

/// Whom an entry means.
#[derive(Clone, Debug)]
enum Target {
    /// A name, with every address it has.
    Name(String),
    /// Addresses, by whatever name.
    Block(IpNet),
}

impl Allowed {
    /// Whether this entry lets `ip` at `port` be reached by `name` (empty for an address in the URL).
    pub(crate) fn allows(&self, name: &str, ip: IpAddr, port: u16) -> bool {
        let meant = match &self.target {
            Target::Name(allowed) => name.trim_end_matches('.') == allowed,
            Target::Block(block) => block.contains(&ip) || block.contains(&ip.to_canonical()),
        };
        meant && self.port.is_none_or(|allowed| allowed == port)
    }
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let block = IpNet::from_str(text).or_else(|_| IpAddr::from_str(text).map(IpNet::from));
        if let Ok(block) = block {
            return Ok(Self { target: Target::Block(block), port: None });
        }
        let port =
            text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok().filter(|port| *port != 0)?)));
        let (host, port) = port.map_or((text, None), |(host, port)| (host, Some(port)));
        // The parser of URLs reads it, so that both are spelled alike.
        let target = match Host::parse(host) {
            Ok(Host::Ipv4(ip)) => Target::Block(IpAddr::V4(ip).into()),
            Ok(Host::Ipv6(ip)) => Target::Block(IpAddr::V6(ip).into()),
            Ok(Host::Domain(name)) if !name.contains('*') => Target::Name(name.trim_end_matches('.').to_owned()),
            _ => return Err(format!("expected a host, `host:port`, an IP address or a CIDR block, found `{text}`")),
        };
        Ok(Self { target, port })
    }
}

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
