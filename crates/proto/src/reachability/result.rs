//! The result, in words for people and in one line for the profile directory.

use std::{fmt, net::SocketAddr, str::FromStr};

use crate::clock::UnixTime;

/// How a NAT chooses the outside address (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// The same towards everybody.
    EndpointIndependent,
    /// Another for each remote address.
    AddressDependent,
    /// Another for each remote address and port.
    AddressAndPortDependent,
}

/// Whose packets a NAT or firewall lets in (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Everybody's.
    EndpointIndependent,
    /// Those of addresses that were sent to.
    AddressDependent,
    /// Those of addresses and ports that were sent to.
    AddressAndPortDependent,
}

/// What was found. What could not be found out is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reachability {
    /// Whether UDP reaches anybody.
    pub udp: bool,
    /// Our address as super nodes see it.
    pub mapped: Option<SocketAddr>,
    /// Whether that differs from our own address.
    pub translated: Option<bool>,
    /// How the NAT maps.
    pub mapping: Option<Mapping>,
    /// What the NAT or firewall lets in.
    pub filtering: Option<Filtering>,
    /// Whether two hosts behind the NAT reach each other by outside addresses.
    pub hairpin: Option<bool>,
    /// When it was found.
    pub measured: UnixTime,
}

/// Text that is no [`Reachability`]; it is measured anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a reachability record: {0}")]
pub struct ReachabilityError(&'static str);

impl Reachability {
    /// Nothing answered.
    pub fn blocked(measured: UnixTime) -> Self {
        Self {
            udp: false,
            mapped: None,
            translated: None,
            mapping: None,
            filtering: None,
            hairpin: None,
            measured,
        }
    }

    /// Whether strangers reach us: a public address, and nothing filters.
    pub fn is_public(&self) -> bool {
        self.translated == Some(false) && self.filtering == Some(Filtering::EndpointIndependent)
    }

    /// What it means for calls: one sentence each, most important first.
    pub fn sentences(&self) -> Vec<String> {
        if !self.udp {
            return vec![
                "UDP is blocked: calls go over TCP through a super node, with more delay.".into(),
                "Open outgoing UDP in the firewall for better calls.".into(),
            ];
        }
        let mut sentences = Vec::new();
        if let Some(mapped) = self.mapped {
            sentences.push(match self.translated {
                Some(true) => format!("Behind a NAT; seen from outside as {mapped}."),
                Some(false) => format!("A public address: {mapped}."),
                None => format!("Seen from outside as {mapped}."),
            });
        }
        sentences.extend(self.mapping_sentence().map(str::to_owned));
        sentences.extend(self.filtering_sentence().map(str::to_owned));
        match (self.translated, self.hairpin) {
            (Some(true), Some(false)) => sentences.push(
                "The router does not hairpin: two users behind it meet by their local addresses."
                    .into(),
            ),
            (Some(true), None) => sentences.push("Hairpinning could not be tested.".into()),
            _ => {}
        }
        sentences
    }

    fn mapping_sentence(&self) -> Option<&'static str> {
        match (self.translated, self.mapping) {
            (Some(false), _) => None,
            (_, Some(Mapping::EndpointIndependent)) => Some(
                "It keeps one outside port for everybody (endpoint-independent mapping): direct \
                 calls work with almost everyone.",
            ),
            (_, Some(Mapping::AddressDependent)) => Some(
                "It takes another outside port for each address (address-dependent mapping): \
                 direct calls often fail, a super node then relays.",
            ),
            (_, Some(Mapping::AddressAndPortDependent)) => Some(
                "It takes another outside port for each destination (symmetric NAT): direct calls \
                 work with open networks only, a super node relays the others.",
            ),
            (_, None) => Some("How the NAT maps could not be tested: one super node answered."),
        }
    }

    fn filtering_sentence(&self) -> Option<&'static str> {
        match self.filtering {
            Some(Filtering::EndpointIndependent) => Some("Strangers can reach this port."),
            Some(Filtering::AddressDependent) => Some(
                "Only addresses that were written to can answer (address-dependent filtering).",
            ),
            Some(Filtering::AddressAndPortDependent) => Some(
                "Only ports that were written to can answer \
                 (address-and-port-dependent filtering).",
            ),
            None => Some("What is let in could not be tested: no super node had a partner."),
        }
    }
}

const VERSION: &str = "1";

impl fmt::Display for Reachability {
    /// One line, fields separated by a space, `-` for what is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes_no = |value: Option<bool>| value.map_or("-", |yes| if yes { "yes" } else { "no" });
        let mapping = self.mapping.map_or("-", |mapping| match mapping {
            Mapping::EndpointIndependent => "ei",
            Mapping::AddressDependent => "ad",
            Mapping::AddressAndPortDependent => "apd",
        });
        let filtering = self.filtering.map_or("-", |filtering| match filtering {
            Filtering::EndpointIndependent => "ei",
            Filtering::AddressDependent => "ad",
            Filtering::AddressAndPortDependent => "apd",
        });
        let mapped = self.mapped.map_or("-".into(), |mapped| mapped.to_string());
        let (udp, at) = (yes_no(Some(self.udp)), self.measured.0);
        let (translated, hairpin) = (yes_no(self.translated), yes_no(self.hairpin));
        write!(f, "{VERSION} {at} {udp} {mapped} {translated} {mapping} {filtering} {hairpin}")
    }
}

impl FromStr for Reachability {
    type Err = ReachabilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fields: Vec<_> = text.split(' ').collect();
        let &[version, at, udp, mapped, translated, mapping, filtering, hairpin] =
            fields.as_slice()
        else {
            return Err(ReachabilityError("eight fields expected"));
        };
        if version != VERSION {
            return Err(ReachabilityError("another version"));
        }
        let known = |text: &str| (text != "-").then(|| text.to_owned());
        Ok(Self {
            udp: udp == "yes",
            mapped: known(mapped)
                .map(|text| text.parse().map_err(|_| ReachabilityError("mapped address")))
                .transpose()?,
            translated: known(translated).map(|text| text == "yes"),
            mapping: match mapping {
                "-" => None,
                "ei" => Some(Mapping::EndpointIndependent),
                "ad" => Some(Mapping::AddressDependent),
                "apd" => Some(Mapping::AddressAndPortDependent),
                _ => return Err(ReachabilityError("mapping")),
            },
            filtering: match filtering {
                "-" => None,
                "ei" => Some(Filtering::EndpointIndependent),
                "ad" => Some(Filtering::AddressDependent),
                "apd" => Some(Filtering::AddressAndPortDependent),
                _ => return Err(ReachabilityError("filtering")),
            },
            hairpin: known(hairpin).map(|text| text == "yes"),
            measured: UnixTime(at.parse().map_err(|_| ReachabilityError("time"))?),
        })
    }
}
