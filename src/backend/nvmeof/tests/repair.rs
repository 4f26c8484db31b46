//! Paths that are missing, and made again.

use std::fs;

use super::*;
use crate::model::PathCount;

/// The volume by two portals, connected to the device `nvme0n1`.
fn connected(tree: &Tree, portals: &[SocketAddr]) -> HostVolume {
    let mut plan = plan();
    let Connection::Nvme(target) = &mut plan.connection else {
        panic!("{:?}", plan.connection);
    };
    for (path, portal) in target.paths.iter_mut().zip(portals) {
        path.portal = portal.to_string();
    }
    tree.joined_disk("nvme0n1");
    let block = tree.backend.fabric.blocks("nqn.x").unwrap().remove(0);
    let mut volume = HostVolume::from(plan);
    volume.found.device = Some(look::device_of(&block));
    volume
}

async fn found(tree: &Tree, volume: &HostVolume) -> Presence {
    let found = tree.backend.find(volume).await.unwrap();
    let all = tree.backend.find_all(vec![volume.clone()]).await;
    assert!(all.into_iter().all(|it| it.unwrap() == found));
    found
}

fn of_two(working: u32) -> Presence {
    Presence::Degraded(PathCount {
        working,
        planned: 2,
    })
}

#[tokio::test]
async fn a_path_works_while_its_controller_is_live_and_leads_to_the_volume() {
    let tree = Tree::new();
    let portals = [PORTAL, SECOND].map(|it| it.parse().unwrap());
    let volume = connected(&tree, &portals);
    tree.controller("nvme0", PORTAL, OWN);
    tree.leads("nvme0");
    assert_eq!(found(&tree, &volume).await, of_two(1));
    tree.controller("nvme1", SECOND, OWN);
    assert_eq!(found(&tree, &volume).await, of_two(1), "not there yet");
    tree.leads("nvme1");
    assert_eq!(found(&tree, &volume).await, Presence::Present);
    tree.set("nvme1", "state", "connecting");
    assert_eq!(found(&tree, &volume).await, of_two(1));
    tree.set("nvme0", "state", "connecting");
    assert_eq!(found(&tree, &volume).await, of_two(0));
    tree.set("nvme0", "state", "live");
    tree.set("nvme1", "state", "live");
    tree.set("nvme1", "hostnqn", "nqn.other");
    assert_eq!(found(&tree, &volume).await, of_two(1), "of another name");
}

/// The kernel reconnects by itself, and a silent portal is left alone.
#[tokio::test]
async fn a_path_is_made_where_no_controller_is_and_the_portal_answers() {
    let tree = Tree::new();
    let (first, closed) = (portal_that_answers().await, closed_port());
    let volume = connected(&tree, &[first, closed]);
    tree.controller("nvme0", &first.to_string(), OWN);
    let repairable = async |volume: &HostVolume| {
        let paths = tree.backend.repairable(vec![volume.clone()]).await;
        portals(&paths[0]).collect::<Vec<_>>()
    };
    assert_eq!(repairable(&volume).await, [], "no portal answers");
    tree.controller("nvme1", &closed.to_string(), OWN);
    for (attribute, value) in [
        ("state", "live"),
        ("state", "connecting"),
        ("state", "deleting"),
        ("subsysnqn", "(efault)"),
    ] {
        tree.set("nvme1", attribute, value);
        assert_eq!(repairable(&volume).await, [], "{value}");
    }
    tree.gone("nvme1");
    tree.gone("nvme0");
    assert_eq!(repairable(&volume).await, [first]);
}

/// A kernel that makes the controller nvme1 when it is asked to connect, and answers each job like this.
fn kernel(tree: &mut Tree, portal: SocketAddr, connect: &str, identify: &str) {
    let root = tree.root.path().to_owned();
    let made = root.join("class/nvme/nvme1");
    tree.controller("nvme1", &portal.to_string(), OWN);
    tree.leads("nvme1");
    fs::rename(&made, root.join("template")).unwrap();
    let script = format!(
        r#"#!/bin/sh
        job=$(cat)
        echo "$job" >>{root}/jobs
        case $job in
            *connect_nvme*) cp -r {root}/template {made}; echo '{connect}';;
            *identify_namespace*) echo '{identify}';;
            *delete_controller*) rm -r {made}; echo '"done"';;
        esac"#,
        root = root.display(),
        made = made.display(),
    );
    let executable = root.join("worker");
    // By another process: while this one had it open for writing, whatever another test starts would have it open too, and it
    // could not be run (ETXTBSY).
    let mut write = std::process::Command::new("sh");
    write.args([
        "-c",
        "printf '%s\\n' \"$1\" >\"$2\" && chmod +x \"$2\"",
        "sh",
    ]);
    let written = write.arg(script).arg(&executable).status().unwrap();
    assert!(written.success());
    tree.backend.workers = Workers::from_executable(executable);
}

fn namespace(uuid: &str) -> String {
    format!(r#"{{"namespace":{{"uuid":"{uuid}","nguid":null,"eui64":null,"size":8192}}}}"#)
}

const OTHER: &str = "7c9e6679-7425-40de-944b-e07fc1f90aff";
const DONE: &str = r#""done""#;

/// A tree whose volume lacks its second path, and that path.
async fn one_path_less(connect: &str, identify: &str) -> (Tree, HostVolume, Vec<TargetPath>) {
    let mut tree = Tree::new();
    let portals = [closed_port(), portal_that_answers().await];
    let volume = connected(&tree, &portals);
    tree.controller("nvme0", &portals[0].to_string(), OWN);
    tree.leads("nvme0");
    tree.backend.recall(std::slice::from_ref(&volume));
    kernel(&mut tree, portals[1], connect, identify);
    let paths = tree
        .backend
        .repairable(vec![volume.clone()])
        .await
        .remove(0);
    assert_eq!(paths.len(), 1);
    (tree, volume, paths)
}

#[tokio::test]
async fn a_path_that_is_made_again_is_verified_and_ours() {
    let (mut tree, mut volume, paths) = one_path_less(DONE, &namespace(UUID)).await;
    // Journaled before the repair.
    let others = tree.of_others(&volume.plan).await;
    volume.found.controllers_of_others = others;
    tree.backend.repair(&volume, &paths, None).await.unwrap();
    assert_eq!(found(&tree, &volume).await, Presence::Present);
    assert_eq!(tree.ours(&volume).await, ["nvme0", "nvme1"]);
    assert!(tree.of_others(&volume.plan).await.is_empty());
    let jobs = fs::read_to_string(tree.root.path().join("jobs")).unwrap();
    assert!(
        jobs.contains("/dev/nvme1") && !jobs.contains("delete"),
        "{jobs}"
    );
    // The daemon dies in the middle of it: the next one knows the controller by the survey that the journal has.
    tree.restart();
    tree.backend.recall(std::slice::from_ref(&volume));
    assert_eq!(tree.ours(&volume).await, ["nvme0", "nvme1"]);
}

#[tokio::test]
async fn a_path_that_another_program_makes_meanwhile_stays_theirs() {
    let faster = r#"{"failed":{"step":"connect","errno":114}}"#;
    let (tree, volume, paths) = one_path_less(faster, &namespace(UUID)).await;
    tree.backend.repair(&volume, &paths, None).await.unwrap();
    assert_eq!(found(&tree, &volume).await, Presence::Present);
    assert_eq!(tree.ours(&volume).await, ["nvme0"]);
    assert_eq!(tree.of_others(&volume.plan).await, [tree.id("nvme1")]);
}

#[tokio::test]
async fn a_new_path_to_another_volume_is_taken_away() {
    let (tree, volume, paths) = one_path_less(DONE, &namespace(OTHER)).await;
    let repaired = tree.backend.repair(&volume, &paths, None).await;
    assert_eq!(repaired.unwrap_err().reason(), Reason::DeviceIdentity);
    assert_eq!(found(&tree, &volume).await, of_two(1));
    assert_eq!(tree.ours(&volume).await, ["nvme0"]);
    // One that does not answer stays, and is told.
    let silent = r#"{"failed":{"step":"ask","errno":5}}"#;
    let (tree, volume, paths) = one_path_less(DONE, silent).await;
    tree.backend
        .repair(&volume, &paths, None)
        .await
        .unwrap_err();
    assert_eq!(tree.ours(&volume).await, ["nvme0", "nvme1"]);
}

/// Another attachment makes the controller between the look and the repair: it is not this repair's to end.
#[tokio::test]
async fn a_path_of_another_attachment_stays_although_it_leads_to_another_volume() {
    let (tree, volume, paths) = one_path_less(DONE, &namespace(OTHER)).await;
    let portal: SocketAddr = paths[0].portal.parse().unwrap();
    tree.controller("nvme1", &portal.to_string(), OWN);
    tree.leads("nvme1");
    let by_number = Which::Is(tree.id("nvme1"));
    tree.backend.made.note("nqn.x", portal, by_number);
    let repaired = tree.backend.repair(&volume, &paths, None).await;
    assert_eq!(repaired.unwrap_err().reason(), Reason::DeviceIdentity);
    assert_eq!(tree.ours(&volume).await, ["nvme0", "nvme1"]);
}

/// What is ended is ended under the portal's turn.
#[tokio::test]
async fn a_new_path_to_another_volume_is_taken_away_at_its_portals_turn() {
    let (tree, volume, paths) = one_path_less(DONE, &namespace(OTHER)).await;
    let portal: SocketAddr = paths[0].portal.parse().unwrap();
    tree.controller("nvme1", &portal.to_string(), OWN);
    tree.backend.made.note("nqn.x", portal, Which::Next);
    let controllers = tree.backend.controllers("nqn.x").await.unwrap();
    let new = controllers.iter().find(|it| it.name == "nvme1").unwrap();
    let turn = tree
        .backend
        .connects
        .lock(("nqn.x".to_owned(), portal))
        .await;
    let mut taken = Box::pin(tree.backend.take_away(&volume, new));
    assert!(futures::poll!(&mut taken).is_pending());
    // Another attachment's connect has the turn, and notes its own.
    tree.backend.made.note("nqn.x", portal, Which::Is(99));
    drop(turn);
    taken.await.unwrap();
    let note = tree.backend.made.note("nqn.x", portal, None);
    assert_eq!(note, Some(Which::Is(99)));
}

#[tokio::test]
async fn a_path_that_cannot_be_made_leaves_nothing() {
    let refused = r#"{"failed":{"step":"connect","errno":5}}"#;
    let (tree, volume, paths) = one_path_less(refused, DONE).await;
    let repaired = tree.backend.repair(&volume, &paths, None).await;
    assert_eq!(repaired.unwrap_err().reason(), Reason::LoginFailed);
    // A controller that appears there afterwards is another program's.
    assert_eq!(tree.ours(&volume).await, ["nvme0"]);
}

/// The kernel looks for the namespaces of a new controller after the connect. Time is the test's own.
#[tokio::test(start_paused = true)]
async fn a_connect_waits_a_moment_for_its_further_paths() {
    let info = info(r#""ns_id":7"#);
    let wanted = Wanted::new(super::volume(&info).unwrap());
    for comes_after in [None, Some(FURTHER_PATHS / 2)] {
        let tree = Tree::new();
        let volume = connected(&tree, &[PORTAL, SECOND].map(|it| it.parse().unwrap()));
        tree.controller("nvme0", PORTAL, OWN);
        tree.leads("nvme0");
        tree.controller("nvme1", SECOND, OWN);
        let begun = Instant::now();
        let comes = async {
            if let Some(after) = comes_after {
                tokio::time::sleep(after).await;
                tree.leads("nvme1");
            }
        };
        let target = target(&volume.plan).unwrap();
        let (block, ()) = tokio::join!(tree.backend.appear(target, &wanted), comes);
        assert_eq!(block.unwrap().name, "nvme0n1");
        let waited = begun.elapsed();
        match comes_after {
            Some(after) => assert!((after..FURTHER_PATHS).contains(&waited), "{waited:?}"),
            None => assert!(waited >= FURTHER_PATHS, "{waited:?}"),
        }
    }
}
