//! Who may edit what over the wire.

use super::*;

fn bench(edits: EditPolicy) -> Bench {
    Bench::with(SETTINGS, [ExportConfig { edits, ..export(2) }])
}

/// The three kinds of edits, as a station would make them.
fn edits(station: MacAddr) -> [(&'static str, Vec<u8>); 3] {
    [
        ("config string", config(station, 1, ConfigCommand::ForceSet, b"abc")),
        ("mask list", mask(station, 2, MaskCommand::Edit, &[(DirectiveCommand::Add, A), (DirectiveCommand::Add, B)])),
        ("reservation", reserve(station, 3, ReserveCommand::ForceSet, &[A, B])),
    ]
}

#[test]
fn nobody_edits_what_is_nobodys_to_edit() {
    let mut bench = bench(EditPolicy::same(&Editors::None));
    for (number, (what, frame)) in edits(A).into_iter().enumerate() {
        let answer = bench.answer(&frame);
        assert_eq!(answer.error(), Some(ErrorCode::BadArgument), "{what}");
        let refused = Event::EditRefused { address: Address::new(1, 2), station: A, what };
        assert_eq!(bench.target.poll_event(), Some(refused));
        assert_eq!(bench.export().counters.edits_refused, number as u64 + 1);
    }
    assert_eq!(bench.export().stored(), StoredState::default());
}

#[test]
fn reading_is_for_all() {
    let mut bench = bench(EditPolicy::same(&Editors::None));
    let reads = [
        config(A, 1, ConfigCommand::Read, b""),
        config(A, 2, ConfigCommand::Prefix, b""),
        mask(A, 3, MaskCommand::Read, &[]),
        reserve(A, 4, ReserveCommand::Read, &[]),
    ];
    for frame in reads {
        assert_eq!(bench.answer(&frame).error(), None);
    }
    // To set what is set changes nothing.
    assert_eq!(bench.answer(&config(A, 5, ConfigCommand::Set, b"")).error(), None);
    assert_eq!(bench.target.poll_event(), None);
    assert_eq!(bench.export().counters.edits_refused, 0);
}

#[test]
fn those_who_are_named_edit() {
    let policy =
        EditPolicy { config: Editors::All, mask: Editors::These(vec![B]), reservation: Editors::These(vec![A]) };
    let mut bench = bench(policy);
    let error = |bench: &mut Bench, frame: &[u8]| bench.answer(frame).error();
    let [(_, config), (_, mask), (_, reservation)] = edits(A);
    assert_eq!(error(&mut bench, &config), None);
    assert_eq!(error(&mut bench, &mask), Some(ErrorCode::BadArgument));
    assert_eq!(error(&mut bench, &reservation), None);
    let [_, (_, mask), (_, reservation)] = edits(B);
    assert_eq!(error(&mut bench, &mask), None);
    assert_eq!(error(&mut bench, &reservation), Some(ErrorCode::BadArgument));
    let StoredState { config_string, mask, reservation, .. } = bench.export().stored();
    assert_eq!((&config_string[..], &mask[..], &reservation[..]), (&b"abc"[..], &[A, B][..], &[A, B][..]));
}

#[test]
fn who_is_reserved_out_hears_that_first() {
    let mut bench = bench(EditPolicy { reservation: Editors::These(vec![A]), ..EditPolicy::default() });
    bench.answer(&reserve(A, 1, ReserveCommand::Set, &[A]));
    let answer = bench.answer(&reserve(B, 2, ReserveCommand::Set, &[B]));
    assert_eq!(answer.error(), Some(ErrorCode::Reserved));
    let answer = bench.answer(&reserve(B, 3, ReserveCommand::ForceSet, &[B]));
    assert_eq!(answer.error(), Some(ErrorCode::BadArgument));
    assert_eq!(bench.export().access.reservation, [A]);
}
