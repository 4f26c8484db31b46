use proptest::prelude::*;

use super::*;

fn cinders(id: u128, volume: &str, status: &str, instance: Option<&str>) -> Attachment {
    let id = Uuid::from_u128(id);
    let body = json!({ "id": id, "volume_id": volume, "status": status, "instance": instance });
    serde_json::from_value(body).unwrap()
}

fn ours(id: u128, volume: &str, state: v1::State) -> (Uuid, v1::Attachment) {
    let id = Uuid::from_u128(id);
    let attachment = v1::Attachment {
        attachment_id: id.to_string(),
        volume_id: volume.to_owned(),
        state: state.into(),
        ..v1::Attachment::default()
    };
    (id, attachment)
}

fn survey(cinder: Vec<Attachment>, agent: Vec<(Uuid, v1::Attachment)>) -> Survey {
    let cinder: std::collections::BTreeMap<_, _> =
        cinder.into_iter().map(|it| (it.id, it)).collect();
    let ended = agent.iter().filter(|(id, _)| !cinder.contains_key(id));
    let taken = ended.clone().filter(|(_, here)| {
        let mut uses = cinder.values();
        uses.any(|it| it.volume_id == here.volume_id && !agent.iter().any(|(id, _)| *id == it.id))
    });
    Survey {
        taken: taken.map(|(id, _)| *id).collect(),
        ended: ended.map(|(id, _)| *id).collect(),
        cinder,
        agent: agent.into_iter().collect(),
        ..Survey::default()
    }
}

fn mends(survey: &Survey) -> Vec<(u128, Mend)> {
    let findings = Findings::of(survey);
    findings
        .differ
        .iter()
        .map(|it| (it.id.as_u128(), it.mend))
        .collect()
}

#[test]
fn each_difference_has_its_mend() {
    let survey = survey(
        vec![
            cinders(1, "v1", "attaching", None),
            cinders(2, "v2", "attached", None),
            cinders(3, "v3", "attaching", None),
            cinders(4, "v4", "attaching", None),
            cinders(5, "v5", "attached", Some("server")),
            cinders(6, "v6", "attaching", None),
        ],
        vec![
            ours(2, "v2", v1::State::Attached),
            ours(3, "v3", v1::State::Attached),
            ours(4, "v4", v1::State::Failed),
            ours(6, "v6", v1::State::Attaching),
            ours(7, "v7", v1::State::Attached),
        ],
    );
    let expected = [
        (1, Mend::DeleteInCinder),
        (3, Mend::Complete),
        (4, Mend::DetachAndDelete),
        (7, Mend::DetachHere),
    ];
    assert_eq!(mends(&survey), expected);
    let left = Findings::of(&survey).left_alone;
    assert!(left.iter().any(|it| it.contains("Nova's")), "{left:?}");
    assert!(
        left.iter().any(|it| it.contains("being attached")),
        "{left:?}"
    );
}

#[test]
fn a_volume_that_is_here_under_another_id_is_nobodys_to_mend() {
    let survey = survey(
        vec![cinders(1, "v", "attached", None)],
        vec![ours(2, "v", v1::State::Attached)],
    );
    assert_eq!(mends(&survey), [(1, Mend::Nobody), (2, Mend::Nobody)]);
}

/// As Glance's store in Cinder makes them.
#[test]
fn what_other_software_attached_on_this_host_is_nobodys_to_mend() {
    let mut survey = survey(vec![cinders(1, "v", "attached", None)], vec![]);
    assert_eq!(mends(&survey), [(1, Mend::DeleteInCinder)]);
    survey.unmarked.insert(Uuid::from_u128(1));
    assert_eq!(mends(&survey), [(1, Mend::Nobody)]);
}

#[test]
fn what_this_host_is_not_done_with_is_told() {
    let whole = cinders(1, "v", "attached", None);
    let survey = survey(vec![whole], vec![ours(1, "v", v1::State::Failed)]);
    let findings = Findings::of(&survey);
    assert!(findings.differ.is_empty());
    assert!(
        findings.left_alone[0].contains("volattach show"),
        "{findings:?}"
    );
}

#[test]
fn what_is_seen_once_is_under_way() {
    let before = Findings::of(&survey(vec![cinders(1, "v", "attaching", None)], vec![]));
    let both = vec![
        cinders(1, "v", "attaching", None),
        cinders(2, "w", "attaching", None),
    ];
    let mut after = Findings::of(&survey(both, vec![]));
    after.confirm(&before);
    let ids: Vec<_> = after.differ.iter().map(|it| it.id.as_u128()).collect();
    assert_eq!(ids, [1]);
}

#[test]
fn findings_are_told_to_people_and_programs() {
    let mut survey = survey(
        vec![
            cinders(1, "v1", "attaching", None),
            cinders(2, "v2", "attaching", None),
        ],
        vec![ours(2, "v2", v1::State::Attached)],
    );
    survey.foreign = 2;
    let findings = Findings::of(&survey);
    insta::assert_snapshot!(text(&findings, &[Some(Ok(())), None]), @r"
    attachment 00000000-0000-0000-0000-000000000001 of volume v1: is attaching in Cinder, and not on this host
      done: delete it in Cinder
    attachment 00000000-0000-0000-0000-000000000002 of volume v2: is attaching in Cinder, and attached on this host
      with --yes: complete it in Cinder
    left alone: 2 of this host's attachments are of no volume that Cinder shows
    ");
    let document = document(&findings, &[Some(Err(Failure::local("no"))), None]);
    assert_eq!(document["findings"][0]["mended"], false);
    assert_eq!(document["findings"][0]["error"], "no");
    assert_eq!(document["findings"][1]["mendable"], true);
    assert_eq!(
        text(&Findings::default(), &[]),
        "Cinder and this host agree"
    );
}

proptest! {
    /// Whatever differs: nothing of Nova's is touched, and nothing that is attached on both sides.
    #[test]
    fn what_is_sound_or_anothers_is_never_mended(
        cinder in proptest::collection::vec((0u128..6, 0u8..3, "(reserved|attaching|attached)", any::<bool>()), 0..6),
        agent in proptest::collection::vec((0u128..6, 0u8..3, 0i32..10), 0..6),
    ) {
        let cinder: Vec<_> = cinder.iter()
            .map(|(id, volume, status, nova)| cinders(*id, &format!("v{volume}"), status, nova.then_some("server")))
            .collect();
        let agent: Vec<_> = agent.iter()
            .map(|(id, volume, state)| ours(*id, &format!("v{volume}"), v1::State::try_from(*state).unwrap_or_default()))
            .collect();
        let survey = survey(cinder, agent);
        for finding in Findings::of(&survey).differ {
            if finding.mend == Mend::Nobody {
                continue;
            }
            let theirs = survey.cinder.get(&finding.id);
            let here = survey.agent.get(&finding.id);
            prop_assert!(theirs.is_none() || here.is_none() || !theirs.unwrap().is_complete());
            prop_assert!(here.is_some() || theirs.unwrap().instance.is_none());
        }
    }
}
