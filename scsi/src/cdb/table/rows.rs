//! The rows of the command table, by operation code.
//!
//! Columns: command, where it exists, what may stop it, which way its data goes, and the usage map: for each byte the bits that are
//! looked at. In the commands between arrays (`vendor` shows their bytes) all other bits have to be zero.

use super::Block::{
    CompareAndWrite, GetLbaStatus, OrWrite, PreFetch10, PreFetch16, Read, ReadCapacity10, ReadCapacity16,
    SynchronizeCache10, SynchronizeCache16, Unmap, Verify, Write, WriteAndVerify, WriteAtomic, WriteSame10,
    WriteSame16,
};
use super::Command::{Block as B, Primary as P, Vendor as V};
use super::DataDirection::{In, None as NoData, Out};
use super::Form::{Six, Sixteen, Ten, Twelve};
use super::Found::{AtomicVolumes, Everywhere, PeerUnits, ThinVolumes, Volumes};
use super::Gate::{Attention, Open, Ready, Writable};
use super::Primary::{
    CopyFailure, CopyParameters, CopyStatus, ExtendedCopy, Inquiry, ModeSelect6, ModeSelect10, ModeSense6,
    ModeSense10, ReportLuns, ReportOperationCodes, ReportTargetPortGroups, RequestSense, TestUnitReady,
};
use super::Vendor::{
    CopyRead, Designation, DesignationResult, ForwardedRead, ForwardedWrite, ForwardingState,
    JournalInformation, JournalRead, JournalTables, JournalWrite, LinkTest, PeerInformation, ReportPosition,
    Synchronise,
};
use super::{Command, DataDirection, Found, Gate, Row};

#[rustfmt::skip]
pub(super) const ROWS: [Row; 55] = [
    row(P(TestUnitReady), Everywhere, Ready,     NoData, &[0x00, 0, 0, 0, 0, 4]),
    row(P(RequestSense),  Everywhere, Open,      In,     &[0x03, 1, 0, 0, F, 4]),
    row(B(Read(Six)),     Volumes,    Ready,     In,     &[0x08, 0x1F, F, F, F, 4]),
    row(B(Write(Six)),    Volumes,    Writable,  Out,    &[0x0A, 0x1F, F, F, F, 4]),
    row(P(Inquiry),       Everywhere, Open,      In,     &[0x12, 1, F, F, F, 4]),
    row(P(ModeSelect6),   Volumes,    Attention, Out,    &[0x15, 0x11, 0, 0, F, 4]),
    row(P(ModeSense6),    Volumes,    Attention, In,     &[0x1A, 0x08, F, F, F, 4]),
    row(B(ReadCapacity10), Volumes,   Attention, In,     &[0x25, 0, F, F, F, F, 0, 0, 1, 4]),
    row(B(Read(Ten)),     Volumes,    Ready,     In,     &[0x28, 0xF8, F, F, F, F, 0, F, F, 4]),
    row(B(Write(Ten)),    Volumes,    Writable,  Out,    &[0x2A, 0xF8, F, F, F, F, 0, F, F, 4]),
    row(B(WriteAndVerify(Ten)), Volumes, Writable, Out,  &[0x2E, 0xF6, F, F, F, F, 0, F, F, 4]),
    row(B(Verify(Ten)),   Volumes,    Ready,     Out,    &[0x2F, 0xF6, F, F, F, F, 0, F, F, 4]),
    row(B(PreFetch10),    Volumes,    Ready,     NoData, &[0x34, 0x02, F, F, F, F, 0, F, F, 4]),
    row(B(SynchronizeCache10), Volumes, Ready,   NoData, &[0x35, 0x02, F, F, F, F, 0, F, F, 4]),
    row(B(WriteSame10),   Volumes,    Writable,  Out,    &[0x41, 0xF8, F, F, F, F, 0, F, F, 4]),
    row(B(Unmap),         ThinVolumes, Writable, Out,    &[0x42, 0x01, 0, 0, 0, 0, 0, F, F, 4]),
    row(P(ModeSelect10),  Volumes,    Attention, Out,    &[0x55, 0x11, 0, 0, 0, 0, 0, F, F, 4]),
    row(P(ModeSense10),   Volumes,    Attention, In,     &[0x5A, 0x18, F, F, 0, 0, 0, F, F, 4]),
    with_service_action(
        row(P(ExtendedCopy),   Volumes, Attention, Out,  &[0x83, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 4]), 0x00),
    with_service_action(
        row(P(CopyStatus),     Volumes, Attention, In,   &[0x84, 0x00, F, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 4]), 0x00),
    with_service_action(
        row(P(CopyParameters), Volumes, Attention, In,   &[0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 4]), 0x03),
    with_service_action(
        row(P(CopyFailure),    Volumes, Attention, In,   &[0x84, 0x04, F, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 4]), 0x04),
    row(B(Read(Sixteen)), Volumes,    Ready,     In,     &[0x88, 0xF8, F, F, F, F, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(CompareAndWrite), Volumes,  Writable,  Out,    &[0x89, 0xF8, F, F, F, F, F, F, F, F, 0, 0, 0, F, 0, 4]),
    row(B(Write(Sixteen)), Volumes,   Writable,  Out,    &[0x8A, 0xF8, F, F, F, F, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(OrWrite),       Volumes,    Writable,  Out,    &[0x8B, 0xF8, F, F, F, F, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(WriteAndVerify(Sixteen)), Volumes, Writable, Out, &[0x8E, 0xF6, F, F, F, F, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(Verify(Sixteen)), Volumes,  Ready,     Out,    &[0x8F, 0xF6, F, F, F, F, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(PreFetch16),    Volumes,    Ready,     NoData, &[0x90, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(SynchronizeCache16), Volumes, Ready,   NoData, &[0x91, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(WriteSame16),   Volumes,    Writable,  Out,    &[0x93, 0xF9, F, F, F, F, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(WriteAtomic),   AtomicVolumes, Writable, Out,  &[0x9C, 0xF8, F, F, F, F, F, F, F, F, F, F, F, F, 0, 4]),
    with_service_action(
        row(B(ReadCapacity16), Volumes, Attention, In,   &[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 4]), 0x10),
    with_service_action(
        row(B(GetLbaStatus),   Volumes, Ready,     In,   &[0x9E, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, 4]), 0x12),
    row(P(ReportLuns),    Everywhere, Open,      In,     &[0xA0, 0, F, 0, 0, 0, F, F, F, F, 0, 4]),
    with_service_action(
        row(P(ReportTargetPortGroups), Volumes, Open, In, &[0xA3, 0x0A | 0xE0, 0, 0, 0, 0, F, F, F, F, 0, 4]), 0x0A),
    with_service_action(
        row(P(ReportOperationCodes), Volumes, Attention, In, &[0xA3, 0x0C, 0x87, F, F, F, F, F, F, F, 0, 4]), 0x0C),
    row(B(Read(Twelve)),  Volumes,    Ready,     In,     &[0xA8, 0xF8, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(Write(Twelve)), Volumes,    Writable,  Out,    &[0xAA, 0xF8, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(WriteAndVerify(Twelve)), Volumes, Writable, Out, &[0xAE, 0xF6, F, F, F, F, F, F, F, F, 0, 4]),
    row(B(Verify(Twelve)), Volumes,   Ready,     Out,    &[0xAF, 0xF6, F, F, F, F, F, F, F, F, 0, 4]),
    row(V(PeerInformation),    PeerUnits, Open, In, &[0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0]),
    row(V(JournalRead),        PeerUnits, Open, In, &[0xC1, 7, F, 0, F, F, F, F, F, F, F, F, F, F, F, F,
        F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F,
        F, F, F, F, F, F, F, F, F, F, F, F, 0, 0, 0, 0]),
    row(V(JournalInformation), PeerUnits, Open, In, &[0xC2, 0, 0, 0, F, F, F, F, 0, 0, F, F, F, F, 0, 0]),
    row(V(Designation),        PeerUnits, Open, Out, &[0xC3, 0, 0, 0, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F,
        0, 0, 0, 0, 0, 0, 0, 0]),
    row(V(DesignationResult),  PeerUnits, Open, In, &[0xC4, 0, 0, 0, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F,
        0, 0, 0, 0, 0, 0, 0, 0]),
    row(V(ReportPosition),     PeerUnits, Open, NoData, &[0xC5, 0, 0, 0, F, F, F, F, 0, 0, 0, 0, 0, 0, 0, 0,
        F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    row(V(CopyRead),           PeerUnits, Open, In, &[0xC6, 0, 0, 0, F, F, F, F, F, F, F, F, F, F, F, F,
        F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, F, F, F, F, F, F, F, F, 0, 0, 0, 0]),
    row(V(LinkTest),           PeerUnits, Open, In, &[0xC7, 1, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0]),
    row(V(JournalTables),      PeerUnits, Open, In, &[0xC8, 7, 0, 0, F, F, F, F, F, F, F, F, F, F, F, F,
        F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F,
        F, F, F, F, F, F, F, F, F, F, F, F, 0, 0, 0, 0]),
    row(V(Synchronise),        PeerUnits, Open, In, &[0xC9, 3, 0, 0, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0, 0, 0, F, F, F, F,
        F, F, F, F, 0, 0, 0, 0]),
    row(V(ForwardedWrite),     PeerUnits, Open, Out, &[0xD0, 0, 0, 0, F, F, F, F, F, F, F, F, F, F, F, F,
        F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    row(V(ForwardingState),    PeerUnits, Open, Out, &[0xD1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F,
        0, 0, 0, 0, 0, 0, 0, 0]),
    row(V(ForwardedRead),      PeerUnits, Open, In, &[0xD2, 0, 0, 0, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0, 0, 0, F, F, F, F,
        0, 0, 0, 0, 0, 0, 0, 0]),
    row(V(JournalWrite),       PeerUnits, Open, Out, &[0xD3, 0, 0, 0, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0, 0, 0, F, F, F, F,
        0, 0, 0, 0, 0, 0, 0, 0]),
];

const fn row(
    command: Command,
    found: Found,
    gate: Gate,
    direction: DataDirection,
    usage: &'static [u8],
) -> Row {
    Row { service_action: None, command, gate, direction, usage, found }
}

const fn with_service_action(mut row: Row, service_action: u8) -> Row {
    row.service_action = Some(service_action);
    row
}

/// All bits of a byte.
const F: u8 = 0xFF;
