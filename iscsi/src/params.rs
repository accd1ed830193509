//! The operational keys and the rules by which they are negotiated (RFC 7143 chapter 13).
//!
//! One table, `TABLE`, says for each key how the result comes about, what range is possible, and whether it means
//! anything in a discovery session. [`Negotiation`] is the target's side: the initiator offers, the target
//! answers. A key that nobody mentions keeps the default of the RFC, not ours.
//!
//! Invariant of [`Parameters`]: FirstBurstLength <= MaxBurstLength, and no length is zero.

use crate::text::{
    IRRELEVANT, NOT_UNDERSTOOD, Pairs, REJECT, TextBuilder, TextError, list_values, parse_number,
};

/// MaxRecvDataSegmentLength of a side that has not declared one.
pub const DEFAULT_SEGMENT_BYTES: u32 = 8192;

/// What the target is ready to agree to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The largest data segment that the target takes.
    pub max_recv_segment_bytes: u32,
    /// The largest sequence of data in either direction.
    pub max_burst_bytes: u32,
    /// The most data that may come unasked.
    pub first_burst_bytes: u32,
    /// Open R2Ts of one command.
    pub max_outstanding_r2t: u32,
    /// Whether the target insists on R2T for all data beyond immediate data.
    pub initial_r2t: bool,
    /// Whether commands may bring data along.
    pub immediate_data: bool,
    /// Seconds that an initiator waits before it comes back.
    pub time2wait_s: u32,
    /// Seconds for which the tasks of a lost connection are kept; nothing is kept at ErrorRecoveryLevel 0.
    pub time2retain_s: u32,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            max_recv_segment_bytes: 262_144,
            max_burst_bytes: 1 << 20,
            first_burst_bytes: 262_144,
            max_outstanding_r2t: 8,
            initial_r2t: false,
            immediate_data: true,
            time2wait_s: 0,
            time2retain_s: 0,
        }
    }
}

/// What both sides have agreed on; starts with the defaults of the RFC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Headers carry a CRC32C.
    pub header_digest: bool,
    /// Data segments carry a CRC32C.
    pub data_digest: bool,
    /// The largest data segment that the initiator takes.
    pub initiator_segment_bytes: u32,
    /// The largest data segment that the target takes.
    pub target_segment_bytes: u32,
    /// The largest sequence of data in either direction.
    pub max_burst_bytes: u32,
    /// The most data that may come unasked.
    pub first_burst_bytes: u32,
    /// Open R2Ts of one command.
    pub max_outstanding_r2t: u32,
    /// Whether all data beyond immediate data needs an R2T.
    pub initial_r2t: bool,
    /// Whether commands may bring data along.
    pub immediate_data: bool,
    /// Seconds that an initiator waits before it comes back.
    pub time2wait_s: u32,
    /// Seconds for which the tasks of a lost connection are kept.
    pub time2retain_s: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            initiator_segment_bytes: DEFAULT_SEGMENT_BYTES,
            target_segment_bytes: DEFAULT_SEGMENT_BYTES,
            max_burst_bytes: 262_144,
            first_burst_bytes: 65_536,
            max_outstanding_r2t: 1,
            initial_r2t: true,
            immediate_data: true,
            time2wait_s: 2,
            time2retain_s: 20,
        }
    }
}

/// Kind of session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// Only looks for targets.
    Discovery,
    /// Works with one target.
    Normal,
}

/// Where a key comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Security stage of the login.
    Security,
    /// Operational stage of the login.
    Operational,
    /// Text request after the login.
    FullFeature,
}

/// How the result of a key comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The first offered value that is in the list.
    List(&'static [&'static str]),
    /// Yes if both say Yes.
    And,
    /// Yes if one says Yes.
    Or,
    /// The smaller number, if the offer is in the range.
    Minimum(u32, u32),
    /// The larger number, if the offer is in the range.
    Maximum(u32, u32),
    /// The initiator says how it is; no answer.
    Declared,
    /// Negotiated by the security stage, not here.
    Security,
    /// Only a target may say this, or it is gone from the RFC with the answer that says so.
    Refused(&'static str),
}

/// In which phases a key may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Any login stage, once.
    Login,
    /// Operational stage of the login, once.
    Operational,
    /// Any time.
    Always,
}

/// Whether a key means anything in a discovery session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InDiscovery {
    Relevant,
    Irrelevant,
}

struct Row {
    name: &'static str,
    rule: Rule,
    when: When,
    in_discovery: InDiscovery,
}

const fn row(name: &'static str, rule: Rule, when: When, in_discovery: InDiscovery) -> Row {
    Row { name, rule, when, in_discovery }
}

const DIGESTS: Rule = Rule::List(&["CRC32C", "None"]);
const BURST: (u32, u32) = (512, 0x00ff_ffff);

/// MaxBurstLength stands before FirstBurstLength because keys are answered in the order of the table.
const TABLE: [Row; 32] = [
    row("HeaderDigest", DIGESTS, When::Operational, InDiscovery::Relevant),
    row("DataDigest", DIGESTS, When::Operational, InDiscovery::Relevant),
    row("MaxConnections", Rule::Minimum(1, 65_535), When::Operational, InDiscovery::Irrelevant),
    row("InitialR2T", Rule::Or, When::Operational, InDiscovery::Irrelevant),
    row("ImmediateData", Rule::And, When::Operational, InDiscovery::Irrelevant),
    row("MaxRecvDataSegmentLength", Rule::Declared, When::Always, InDiscovery::Relevant),
    row("MaxBurstLength", Rule::Minimum(BURST.0, BURST.1), When::Operational, InDiscovery::Irrelevant),
    row("FirstBurstLength", Rule::Minimum(BURST.0, BURST.1), When::Operational, InDiscovery::Irrelevant),
    row("DefaultTime2Wait", Rule::Maximum(0, 3600), When::Operational, InDiscovery::Relevant),
    row("DefaultTime2Retain", Rule::Minimum(0, 3600), When::Operational, InDiscovery::Relevant),
    row("MaxOutstandingR2T", Rule::Minimum(1, 65_535), When::Operational, InDiscovery::Irrelevant),
    row("DataPDUInOrder", Rule::Or, When::Operational, InDiscovery::Irrelevant),
    row("DataSequenceInOrder", Rule::Or, When::Operational, InDiscovery::Irrelevant),
    row("ErrorRecoveryLevel", Rule::Minimum(0, 2), When::Operational, InDiscovery::Relevant),
    row("TaskReporting", Rule::List(&["RFC3720"]), When::Operational, InDiscovery::Irrelevant),
    row("iSCSIProtocolLevel", Rule::Minimum(0, 31), When::Operational, InDiscovery::Irrelevant),
    row("SessionType", Rule::Declared, When::Login, InDiscovery::Relevant),
    row("InitiatorName", Rule::Declared, When::Login, InDiscovery::Relevant),
    row("InitiatorAlias", Rule::Declared, When::Always, InDiscovery::Relevant),
    row("TargetName", Rule::Declared, When::Login, InDiscovery::Relevant),
    row("AuthMethod", Rule::Security, When::Login, InDiscovery::Relevant),
    row("CHAP_A", Rule::Security, When::Login, InDiscovery::Relevant),
    row("CHAP_N", Rule::Security, When::Login, InDiscovery::Relevant),
    row("CHAP_R", Rule::Security, When::Login, InDiscovery::Relevant),
    row("CHAP_I", Rule::Security, When::Login, InDiscovery::Relevant),
    row("CHAP_C", Rule::Security, When::Login, InDiscovery::Relevant),
    row("TargetAlias", Rule::Refused(REJECT), When::Always, InDiscovery::Relevant),
    row("TargetAddress", Rule::Refused(REJECT), When::Always, InDiscovery::Relevant),
    row("TargetPortalGroupTag", Rule::Refused(REJECT), When::Login, InDiscovery::Relevant),
    // Markers are gone from RFC 7143; it asks for these two answers so that older initiators go on.
    row("IFMarker", Rule::And, When::Operational, InDiscovery::Relevant),
    row("OFMarker", Rule::And, When::Operational, InDiscovery::Relevant),
    row("OFMarkInt", Rule::Refused(REJECT), When::Operational, InDiscovery::Relevant),
];

/// Why a negotiation cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NegotiationError {
    /// A key came for the second time.
    Repeated,
    /// A declared value is impossible.
    Impossible,
    /// The answer would be too long.
    Text(TextError),
}

impl From<TextError> for NegotiationError {
    fn from(error: TextError) -> Self {
        Self::Text(error)
    }
}

/// The target's side of the negotiation of operational keys.
#[derive(Clone, Debug)]
pub struct Negotiation {
    offer: Offer,
    agreed: Parameters,
    /// One bit for each row of the table that has been negotiated.
    seen: u32,
    has_declared: bool,
}

impl Negotiation {
    /// Starts from the defaults of the RFC.
    #[must_use]
    pub fn new(offer: Offer) -> Self {
        Self { offer, agreed: Parameters::default(), seen: 0, has_declared: false }
    }

    /// Goes on after the login, where only declarations are possible.
    #[must_use]
    pub fn resume(offer: Offer, agreed: Parameters) -> Self {
        Self { offer, agreed, seen: 0, has_declared: true }
    }

    /// What is agreed so far.
    #[must_use]
    pub fn agreed(&self) -> Parameters {
        self.agreed
    }

    /// Answers all pairs of one request, except those of the security stage and SendTargets, which are others' affair.
    /// In the operational stage, the target's own segment length is declared once.
    ///
    /// # Errors
    /// When a key comes for the second time, a declaration is impossible or the answer grows too long.
    pub fn answer(
        &mut self,
        pairs: &Pairs<'_>,
        phase: Phase,
        kind: SessionKind,
        out: &mut TextBuilder,
    ) -> Result<(), NegotiationError> {
        for (index, row) in TABLE.iter().enumerate() {
            let Some(value) = pairs.get(row.name) else { continue };
            let bit = 1_u32 << index;
            if self.seen & bit != 0 && row.when != When::Always && phase != Phase::FullFeature {
                return Err(NegotiationError::Repeated);
            }
            self.seen |= bit;
            self.answer_row(row, value, phase, kind, out)?;
        }
        for (key, value) in pairs.iter() {
            if key == "SendTargets" {
                // Anywhere else than in the full feature phase it is out of place; there it is the connection's affair.
                if phase != Phase::FullFeature {
                    out.push(key, REJECT)?;
                }
            } else if !is_answer(value) && !TABLE.iter().any(|row| row.name == key) {
                out.push(key, NOT_UNDERSTOOD)?;
            }
        }
        if phase == Phase::Operational && !self.has_declared {
            self.has_declared = true;
            out.push("MaxRecvDataSegmentLength", self.offer.max_recv_segment_bytes)?;
            self.agreed.target_segment_bytes = self.offer.max_recv_segment_bytes;
        }
        self.agreed.first_burst_bytes = self.agreed.first_burst_bytes.min(self.agreed.max_burst_bytes);
        Ok(())
    }

    fn answer_row(
        &mut self,
        row: &Row,
        value: &str,
        phase: Phase,
        kind: SessionKind,
        out: &mut TextBuilder,
    ) -> Result<(), NegotiationError> {
        if is_answer(value) {
            return Ok(());
        }
        let in_phase = match row.when {
            When::Always => true,
            When::Login => phase != Phase::FullFeature,
            When::Operational => phase == Phase::Operational,
        };
        if !in_phase {
            return Ok(out.push(row.name, REJECT)?);
        }
        if kind == SessionKind::Discovery && row.in_discovery == InDiscovery::Irrelevant {
            return Ok(out.push(row.name, IRRELEVANT)?);
        }
        match row.rule {
            Rule::List(known) => match list_values(value).find(|offered| known.contains(offered)) {
                Some(chosen) => {
                    self.agree_list(row.name, chosen);
                    out.push(row.name, chosen)?;
                }
                None => out.push(row.name, REJECT)?,
            },
            Rule::And => self.answer_boolean(row.name, value, |ours, theirs| ours && theirs, out)?,
            Rule::Or => self.answer_boolean(row.name, value, |ours, theirs| ours || theirs, out)?,
            Rule::Minimum(low, high) => self.answer_number(row.name, value, (low, high), u32::min, out)?,
            Rule::Maximum(low, high) => self.answer_number(row.name, value, (low, high), u32::max, out)?,
            Rule::Declared => self.declare(row.name, value)?,
            Rule::Security if phase == Phase::Security => {}
            Rule::Security => out.push(row.name, REJECT)?,
            Rule::Refused(answer) => out.push(row.name, answer)?,
        }
        Ok(())
    }

    fn agree_list(&mut self, name: &str, chosen: &str) {
        match name {
            "HeaderDigest" => self.agreed.header_digest = chosen == "CRC32C",
            "DataDigest" => self.agreed.data_digest = chosen == "CRC32C",
            // TaskReporting has one possible result.
            _ => {}
        }
    }

    fn answer_boolean(
        &mut self,
        name: &str,
        value: &str,
        combine: fn(bool, bool) -> bool,
        out: &mut TextBuilder,
    ) -> Result<(), NegotiationError> {
        let theirs = match value {
            "Yes" => true,
            "No" => false,
            _ => return Ok(out.push(name, REJECT)?),
        };
        let ours = match name {
            "InitialR2T" => self.offer.initial_r2t,
            "ImmediateData" => self.offer.immediate_data,
            "DataPDUInOrder" | "DataSequenceInOrder" => true,
            // Markers are never sent.
            _ => false,
        };
        let result = combine(ours, theirs);
        match name {
            "InitialR2T" => self.agreed.initial_r2t = result,
            "ImmediateData" => self.agreed.immediate_data = result,
            _ => {}
        }
        Ok(out.push(name, if result { "Yes" } else { "No" })?)
    }

    fn answer_number(
        &mut self,
        name: &str,
        value: &str,
        (low, high): (u32, u32),
        choose: fn(u32, u32) -> u32,
        out: &mut TextBuilder,
    ) -> Result<(), NegotiationError> {
        let Some(theirs) = parse_number(value).filter(|number| (low..=high).contains(number)) else {
            return Ok(out.push(name, REJECT)?);
        };
        let ours = match name {
            "MaxBurstLength" => self.offer.max_burst_bytes,
            "FirstBurstLength" => self.offer.first_burst_bytes.min(self.agreed.max_burst_bytes),
            "MaxOutstandingR2T" => self.offer.max_outstanding_r2t,
            "DefaultTime2Wait" => self.offer.time2wait_s,
            "DefaultTime2Retain" => self.offer.time2retain_s,
            "ErrorRecoveryLevel" => 0,
            // MaxConnections and iSCSIProtocolLevel.
            _ => 1,
        };
        let result = choose(ours, theirs);
        match name {
            "MaxBurstLength" => self.agreed.max_burst_bytes = result,
            "FirstBurstLength" => self.agreed.first_burst_bytes = result,
            "MaxOutstandingR2T" => self.agreed.max_outstanding_r2t = result,
            "DefaultTime2Wait" => self.agreed.time2wait_s = result,
            "DefaultTime2Retain" => self.agreed.time2retain_s = result,
            // The others have one possible result.
            _ => {}
        }
        Ok(out.push(name, result)?)
    }

    fn declare(&mut self, name: &str, value: &str) -> Result<(), NegotiationError> {
        if name == "MaxRecvDataSegmentLength" {
            let length = parse_number(value).filter(|number| (BURST.0..=BURST.1).contains(number));
            self.agreed.initiator_segment_bytes = length.ok_or(NegotiationError::Impossible)?;
        }
        Ok(())
    }
}

/// Whether a value answers a key instead of offering one; an answer is never answered.
fn is_answer(value: &str) -> bool {
    [NOT_UNDERSTOOD, REJECT, IRRELEVANT].contains(&value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn negotiate(text: &str, kind: SessionKind) -> (String, Parameters) {
        let text = text.replace(' ', "\0");
        let mut negotiation = Negotiation::new(Offer::default());
        let mut out = TextBuilder::new();
        let pairs = Pairs::parse(text.as_bytes()).unwrap();
        negotiation.answer(&pairs, Phase::Operational, kind, &mut out).unwrap();
        let answer = String::from_utf8(out.into_bytes()).unwrap().replace('\0', " ");
        (answer.replace("MaxRecvDataSegmentLength=262144 ", ""), negotiation.agreed())
    }

    #[test]
    fn each_key_follows_its_rule() {
        for (offer, answer) in [
            ("HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C "),
            ("HeaderDigest=None,CRC32C", "HeaderDigest=None "),
            ("DataDigest=SHA9,None", "DataDigest=None "),
            ("DataDigest=SHA9", "DataDigest=Reject "),
            ("MaxConnections=8", "MaxConnections=1 "),
            ("InitialR2T=Yes", "InitialR2T=Yes "),
            ("InitialR2T=No", "InitialR2T=No "),
            ("InitialR2T=Maybe", "InitialR2T=Reject "),
            ("ImmediateData=No", "ImmediateData=No "),
            ("MaxBurstLength=16776192", "MaxBurstLength=1048576 "),
            ("MaxBurstLength=511", "MaxBurstLength=Reject "),
            ("MaxBurstLength=0x10000", "MaxBurstLength=65536 "),
            ("FirstBurstLength=9999 MaxBurstLength=1024", "MaxBurstLength=1024 FirstBurstLength=1024 "),
            ("DefaultTime2Wait=2", "DefaultTime2Wait=2 "),
            ("DefaultTime2Retain=20", "DefaultTime2Retain=0 "),
            ("MaxOutstandingR2T=65535", "MaxOutstandingR2T=8 "),
            ("DataPDUInOrder=No", "DataPDUInOrder=Yes "),
            ("DataSequenceInOrder=No", "DataSequenceInOrder=Yes "),
            ("ErrorRecoveryLevel=2", "ErrorRecoveryLevel=0 "),
            ("ErrorRecoveryLevel=3", "ErrorRecoveryLevel=Reject "),
            ("IFMarker=Yes", "IFMarker=No "),
            ("OFMarkInt=1~2", "OFMarkInt=Reject "),
            ("TaskReporting=FastAbort,RFC3720", "TaskReporting=RFC3720 "),
            ("iSCSIProtocolLevel=2", "iSCSIProtocolLevel=1 "),
            ("X-com.example.key=7", "X-com.example.key=NotUnderstood "),
            ("Unknown=Reject", ""),
            ("TargetAlias=me", "TargetAlias=Reject "),
            ("InitiatorAlias=me", ""),
            ("AuthMethod=None", "AuthMethod=Reject "),
        ] {
            assert_eq!(negotiate(offer, SessionKind::Normal).0, answer, "{offer}");
        }
    }

    #[test]
    fn silence_leaves_the_defaults_of_the_standard() {
        let (_, agreed) = negotiate("", SessionKind::Normal);
        assert_eq!(agreed, Parameters { target_segment_bytes: 262_144, ..Parameters::default() });
    }

    #[test]
    fn the_first_burst_never_exceeds_the_burst() {
        let (_, agreed) = negotiate("MaxBurstLength=4096", SessionKind::Normal);
        assert_eq!(agreed.first_burst_bytes, 4096);
    }

    #[test]
    fn a_discovery_session_calls_transfer_keys_irrelevant() {
        let (answer, _) = negotiate("MaxBurstLength=4096 HeaderDigest=None", SessionKind::Discovery);
        assert_eq!(answer, "HeaderDigest=None MaxBurstLength=Irrelevant ");
    }

    #[test]
    fn a_key_is_negotiated_once_and_an_impossible_declaration_ends_the_login() {
        let mut negotiation = Negotiation::new(Offer::default());
        let mut answer = |text: &str| {
            let pairs = Pairs::parse(text.as_bytes()).unwrap();
            let out = &mut TextBuilder::new();
            negotiation.answer(&pairs, Phase::Operational, SessionKind::Normal, out)
        };
        assert_eq!(answer("InitialR2T=No"), Ok(()));
        assert_eq!(answer("InitialR2T=No"), Err(NegotiationError::Repeated));
        assert_eq!(answer("MaxRecvDataSegmentLength=0"), Err(NegotiationError::Impossible));
    }

    #[test]
    fn operational_keys_have_no_place_outside_their_stage() {
        for phase in [Phase::Security, Phase::FullFeature] {
            let mut out = TextBuilder::new();
            let pairs = Pairs::parse(b"MaxBurstLength=4096").unwrap();
            let mut negotiation = Negotiation::new(Offer::default());
            negotiation.answer(&pairs, phase, SessionKind::Normal, &mut out).unwrap();
            assert_eq!(out.into_bytes(), b"MaxBurstLength=Reject\0");
            assert_eq!(negotiation.agreed(), Parameters::default());
        }
    }

    #[test]
    fn every_name_of_the_table_is_there_once() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(!TABLE[index + 1..].iter().any(|other| other.name == row.name), "{}", row.name);
        }
    }
}
