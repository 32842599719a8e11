//! The gateway's address, in the form of whoever manages its network.
//!
//! It promises that what it renders was looked at: an address that is a host's, a prefix that holds
//! it, a router that can be reached. It writes nothing itself.
//!
//! Source: nm-settings-keyfile(5), systemd.network(5).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Why a network is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not understood.
    #[error(
        "{0:?} is not understood: `dhcp`, or ADDRESS/PREFIX [ROUTER [DNS]], such as 192.168.1.20/24 192.168.1.1"
    )]
    Form(String),
    /// Not the address of one host.
    #[error("{0} is no address of a host")]
    Address(String),
    /// The router is elsewhere.
    #[error("the router {router} is not in the network of {address}")]
    Router {
        /// The router.
        router: IpAddr,
        /// The address with its prefix.
        address: String,
    },
    /// Not a name of an interface.
    #[error("{0:?} is no name of a network interface")]
    Interface(String),
}

/// How an interface gets its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// From whoever gives them out.
    Dhcp,
    /// Always the same.
    Fixed {
        /// The address.
        address: IpAddr,
        /// Bits of the network.
        prefix: u8,
        /// The way out.
        router: Option<IpAddr>,
        /// Who knows names.
        dns: Option<IpAddr>,
    },
}

/// Who manages the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// NetworkManager, as on Raspberry Pi OS.
    NetworkManager,
    /// systemd-networkd.
    Networkd,
}

impl Network {
    /// From what was typed.
    ///
    /// # Errors
    /// It is not understood, or cannot work.
    pub fn read(text: &str) -> Result<Self, NetworkError> {
        let form = || NetworkError::Form(text.to_owned());
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let (first, rest) = words.split_first().ok_or_else(form)?;
        if *first == "dhcp" {
            return if rest.is_empty() {
                Ok(Self::Dhcp)
            } else {
                Err(form())
            };
        }
        let (address, prefix) = first.split_once('/').ok_or_else(form)?;
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| digits).ok_or_else(form)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix == 0 || prefix > most {
            return Err(form());
        }
        if rest.len() > 2 {
            return Err(form());
        }
        let mut more = rest.iter().map(|w| w.parse::<IpAddr>());
        let router = more.next().transpose().map_err(|_| form())?;
        let dns = more.next().transpose().map_err(|_| form())?;
        for one in [Some(address), router, dns].into_iter().flatten() {
            if !is_host(one) {
                return Err(NetworkError::Address(one.to_string()));
            }
        }
        let host = !mask(most, prefix);
        let low = bits(address) & host & width(most);
        let ends = address.is_ipv4() && prefix < 31;
        if ends && (low == 0 || low == host & width(most)) {
            return Err(NetworkError::Address((*first).to_owned()));
        }
        if let Some(router) = router {
            let same = router.is_ipv4() == address.is_ipv4()
                && (bits(router) ^ bits(address)) & !host & width(most) == 0;
            if !same || router == address {
                let address = (*first).to_owned();
                return Err(NetworkError::Router { router, address });
            }
        }
        Ok(Self::Fixed {
            address,
            prefix,
            router,
            dns,
        })
    }

    /// The file that says so, below `root`, and its text.
    ///
    /// # Errors
    /// `interface` is no name of one.
    pub fn file(
        &self,
        system: System,
        interface: &str,
        root: &Path,
    ) -> Result<(PathBuf, String), NetworkError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if interface.is_empty()
            || interface.len() > 15
            || interface.starts_with('.')
            || !interface.chars().all(plain)
        {
            return Err(NetworkError::Interface(interface.to_owned()));
        }
        let head = "# Written by `holdup config set network`; `holdup config undo` takes it back.";
        Ok(match system {
            System::NetworkManager => (
                root.join("etc/NetworkManager/system-connections/holdup.nmconnection"),
                format!(
                    "{head}\n[connection]\nid=holdup\ntype=ethernet\ninterface-name={interface}\n\
                     autoconnect-priority=100\n{}",
                    self.keyfile()
                ),
            ),
            System::Networkd => (
                root.join("etc/systemd/network/05-holdup.network"),
                format!(
                    "{head}\n[Match]\nName={interface}\n\n[Network]\n{}",
                    self.networkd()
                ),
            ),
        })
    }

    fn keyfile(&self) -> String {
        match self {
            Self::Dhcp => "\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n".to_owned(),
            Self::Fixed {
                address,
                prefix,
                router,
                dns,
            } => {
                let (ours, other) = if address.is_ipv4() {
                    ("ipv4", "ipv6")
                } else {
                    ("ipv6", "ipv4")
                };
                let mut text = format!("\n[{ours}]\nmethod=manual\naddress1={address}/{prefix}");
                if let Some(router) = router {
                    text.push_str(&format!(",{router}"));
                }
                text.push('\n');
                if let Some(dns) = dns.filter(|d| d.is_ipv4() == address.is_ipv4()) {
                    text.push_str(&format!("dns={dns};\n"));
                }
                text.push_str(&format!("\n[{other}]\nmethod=auto\n"));
                if let Some(dns) = dns.filter(|d| d.is_ipv4() != address.is_ipv4()) {
                    text.push_str(&format!("dns={dns};\n"));
                }
                text
            }
        }
    }

    fn networkd(&self) -> String {
        match self {
            Self::Dhcp => "DHCP=yes\n".to_owned(),
            Self::Fixed {
                address,
                prefix,
                router,
                dns,
            } => {
                let mut text = format!("Address={address}/{prefix}\n");
                if let Some(router) = router {
                    text.push_str(&format!("Gateway={router}\n"));
                }
                if let Some(dns) = dns {
                    text.push_str(&format!("DNS={dns}\n"));
                }
                text
            }
        }
    }
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(a) if a.is_broadcast() || a.octets()[0] == 0 || a.octets()[0] >= 240);
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || broadcast)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// All bits of an address.
fn width(most: u8) -> u128 {
    if most == 32 {
        u128::from(u32::MAX)
    } else {
        u128::MAX
    }
}

/// The network's bits.
fn mask(most: u8, prefix: u8) -> u128 {
    let host = most - prefix;
    if host >= 128 { 0 } else { u128::MAX << host }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_that_works_is_taken() {
        assert_eq!(Network::read(" dhcp "), Ok(Network::Dhcp));
        for good in [
            "192.168.1.20/24",
            "192.168.1.20/24 192.168.1.1",
            "10.0.0.5/8 10.255.0.1 9.9.9.9",
            "10.0.0.0/31 10.0.0.1",
            "2001:db8::20/64 2001:db8::1",
        ] {
            assert!(
                Network::read(good).is_ok(),
                "{good}: {:?}",
                Network::read(good)
            );
        }
    }

    #[test]
    fn one_that_cannot_is_refused() {
        for bad in [
            "",
            "dhcp now",
            "192.168.1.20",
            "192.168.1.20/0",
            "192.168.1.20/33",
            "192.168.1.20/+24",
            "192.168.1.0/24",
            "192.168.1.255/24",
            "127.0.0.1/8",
            "224.0.0.1/24",
            "0.0.0.0/24",
            "300.1.1.1/24",
            "192.168.1.20/24 192.168.2.1",
            "192.168.1.20/24 192.168.1.20",
            "192.168.1.20/24 2001:db8::1",
            "192.168.1.20/24 192.168.1.1 8.8.8.8 9.9.9.9",
            "192.168.1.20/24 router",
            "::1/64",
        ] {
            assert!(Network::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn it_is_written_as_its_manager_reads_it() {
        let n = Network::read("192.168.1.20/24 192.168.1.1 9.9.9.9").expect("read");
        let root = Path::new("/");
        let (path, text) = n
            .file(System::NetworkManager, "eth0", root)
            .expect("a file");
        assert!(path.ends_with("system-connections/holdup.nmconnection"));
        assert!(
            text.contains("interface-name=eth0\n")
                && text.contains("address1=192.168.1.20/24,192.168.1.1\ndns=9.9.9.9;\n"),
            "{text}"
        );
        let (path, text) = n.file(System::Networkd, "eth0", root).expect("a file");
        assert!(path.ends_with("05-holdup.network"));
        assert!(
            text.contains("Name=eth0\n") && text.contains("Gateway=192.168.1.1\nDNS=9.9.9.9\n"),
            "{text}"
        );
        for bad in ["", "../x", "eth0\nx", "a b", "aaaaaaaaaaaaaaaa"] {
            assert!(n.file(System::Networkd, bad, root).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_one_line_each(text: String, a: u32, p in 0u8..40) {
            Network::read(&text).ok();
            let typed = format!("{}/{p} {}", std::net::Ipv4Addr::from(a), std::net::Ipv4Addr::from(a ^ 1));
            if let Ok(n) = Network::read(&typed) {
                let (_, text) = n.file(System::Networkd, "eth0", Path::new("/")).expect("a file");
                let ends = format!("/{p}\n");
                prop_assert!(text.contains(&ends));
            }
        }
    }
}
