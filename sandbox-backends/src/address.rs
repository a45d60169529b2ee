//! Which addresses are public: what a client could make the server reach must not be its own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// IPv4 blocks that are not public (IANA special-purpose registry), and the metadata service that sits outside them.
const NOT_PUBLIC_V4: [Ipv4Net; 16] = [
    v4([0, 0, 0, 0], 8),        // this network
    v4([10, 0, 0, 0], 8),       // private
    v4([100, 64, 0, 0], 10),    // carrier-grade NAT; Alibaba's metadata service
    v4([127, 0, 0, 0], 8),      // loopback
    v4([168, 63, 129, 16], 32), // Azure's host
    v4([169, 254, 0, 0], 16),   // link-local; metadata services
    v4([172, 16, 0, 0], 12),    // private
    v4([192, 0, 0, 0], 24),     // protocol assignments; Oracle's metadata service
    v4([192, 0, 2, 0], 24),     // documentation
    v4([192, 88, 99, 0], 24),   // 6to4 relays
    v4([192, 168, 0, 0], 16),   // private
    v4([198, 18, 0, 0], 15),    // benchmarks
    v4([198, 51, 100, 0], 24),  // documentation
    v4([203, 0, 113, 0], 24),   // documentation
    v4([224, 0, 0, 0], 4),      // multicast
    v4([240, 0, 0, 0], 4),      // reserved; broadcast
];

/// The only IPv6 block with public addresses: loopback, ULA, link-local and multicast lie outside.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0], 3);

/// Blocks inside [`GLOBAL_V6`] that are not public.
const NOT_PUBLIC_V6: [Ipv6Net; 3] = [
    v6([0x2001, 0], 23),      // protocol assignments
    v6([0x2001, 0x0db8], 32), // documentation
    v6([0x3fff, 0], 20),      // documentation
];

/// A block of IPv4 addresses.
const fn v4([a, b, c, d]: [u8; 4], bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

/// A block of IPv6 addresses, of its first two segments.
const fn v6([a, b]: [u16; 2], bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits)
}

/// Whether everybody may reach this address. An IPv6 address that carries IPv4 ones is as public as those.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match ip.segments() {
            // IPv4-mapped, NAT64, 6to4.
            [0, 0, 0, 0, 0, 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x2002, a, b, ..] => {
                is_public_v4(joined(a, b))
            }
            // Teredo: the relay, and the client with its bits inverted.
            [0x2001, 0, a, b, _, _, c, d] => is_public_v4(joined(a, b)) && is_public_v4(joined(!c, !d)),
            _ => GLOBAL_V6.contains(&ip) && !NOT_PUBLIC_V6.iter().any(|block| block.contains(&ip)),
        },
    }
}

/// The same for IPv4 alone.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    !NOT_PUBLIC_V4.iter().any(|block| block.contains(&ip))
}

/// The IPv4 address of two IPv6 segments.
fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}
