//! Volumes by NVMe/TCP, as the guest sees them: identities, paths, shared controllers, silent servers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Lab, Test,
    agent::{Agent, Failure},
    guest,
    node::Node,
    nvme_servers::{A, B, B_NGUID, C, NvmeServer},
    process::quote,
};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "nvme_read_only_and_read_write_over_one_subsystem",
        run: two_volumes,
    },
    Test {
        name: "nvme_what_is_refused",
        run: refusals,
    },
    Test {
        name: "nvme_paths_and_servers_fail",
        run: faults,
    },
];

/// Time-outs as short as a node under emulation allows; more keys of `[nvmeof]` may follow.
const CONFIG: &str = "[nvmeof]\nkeep_alive_tmo = \"2s\"\nreconnect_delay = \"1s\"\nfast_io_fail_tmo = \"2s\"\nctrl_loss_tmo = \"1m\"\n";

const MIB: u64 = 1 << 20;

/// The host's controllers: where each is connected to, its state and its time-outs.
fn controllers(node: &Node) -> Result<Vec<String>> {
    let told = node.sh(
        "for c in /sys/class/nvme/nvme*; do [ -e $c ] || continue
             echo $(cut -d, -f1 $c/address) $(cat $c/state $c/fast_io_fail_tmo $c/ctrl_loss_tmo $c/reconnect_delay $c/kato)
         done",
    )?;
    // Several are made at once: their numbers tell nothing.
    let mut told: Vec<String> = told.lines().map(str::to_owned).collect();
    told.sort();
    Ok(told)
}

/// All of them are gone.
fn no_controllers(node: &Node) -> Result<()> {
    let left = controllers(node)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}

fn refused(answer: Result<Result<Value, Failure>>, reason: &str) -> Result<Failure> {
    let failure = answer?
        .err()
        .context(format!("done in spite of {reason}"))?;
    ensure!(failure.reason == reason, "{reason}: {failure:?}");
    Ok(failure)
}

/// Read-only wherever it can be, beside a volume that is written, over the same two controllers; these go with the last of
/// them, also where the daemon was killed meanwhile.
fn two_volumes(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(node, CONFIG)?;
    let server = NvmeServer::start(node, "tgt", &[20, 21])?;
    let (image_a, image_b) = (server.verb("file {} 7")?, server.verb("file {} 3")?);
    let before = node.sh(&format!("sha256sum <{image_a}"))?;

    let mut info = server.info(&A.replace('-', "").to_uppercase());
    info["data"]["access_mode"] = json!("ro");
    let attached = agent.attach("a1", "volume-a", &info, &[])??;
    let device = text(&attached, "host_path").to_owned();
    ensure!(device.starts_with("/dev/nvme"), "{attached}");
    let disk = guest::sees(node, "volume-a")?;
    ensure!(disk.read_only && disk.write.is_err(), "{disk:?}");
    ensure!(
        disk.head == guest::hex("volume A........") && disk.sectors == 8 * 2048,
        "{disk:?}"
    );
    let host = node.sh(&format!(
        "blockdev --getro {device}; ! dd if=/dev/zero of={device} count=1 conv=notrunc,nocreat 2>&1; virsh dumpxml inner | grep -c '<readonly/>'"
    ))?;
    ensure!(host.starts_with('1') && host.ends_with('1'), "{host}");
    ensure!(
        controllers(node)?
            == [
                "traddr=10.99.0.20 live 2 60 1 2",
                "traddr=10.99.0.21 live 2 60 1 2"
            ],
        "{:?}",
        controllers(node)?
    );

    // The older shape, by number and NGUID.
    let mut info = server.by_number(3);
    info["data"]["volume_nguid"] = json!(B_NGUID.replace('-', ""));
    let attached = agent.attach("a2", "volume-b", &info, &[])??;
    ensure!(text(&attached, "host_path") != device, "{attached}");
    let disk = guest::sees(node, "volume-b")?;
    ensure!(!disk.read_only && disk.write == Ok(()), "{disk:?}");
    ensure!(disk.head == guest::hex("volume B........"), "{disk:?}");
    ensure!(controllers(node)?.len() == 2, "{:?}", controllers(node)?);

    node.sh("systemctl kill -s KILL volattachd.service")?;
    agent.detach("a1")??;
    guest::gone(node, "volume-a")?;
    ensure!(
        node.sh(&format!("sha256sum <{image_a}"))? == before,
        "A was written to"
    );
    // The controller at B's portal stays.
    let left = controllers(node)?;
    ensure!(left == ["traddr=10.99.0.20 live 2 60 1 2"], "{left:?}");

    // Its device is there still, and was read-only.
    agent.attach("a1", "volume-a", &server.info(A), &[])??;
    let disk = guest::sees(node, "volume-a")?;
    ensure!(!disk.read_only && disk.write == Ok(()), "{disk:?}");

    // It grows on the server; the guest sees that once it is extended.
    ensure!(agent.extend("a1", 0)?? == 8 * MIB);
    server.verb("grow {} 7 12")?;
    ensure!(agent.extend("a1", 12 * MIB)?? == 12 * MIB);
    guest::sees_bytes(node, "volume-a", 12 * MIB)?;
    let more = agent.extend("a1", 13 * MIB)?.err();
    let more = more.context("extended to more than there is")?;
    ensure!(more.reason == "VOLUME_NOT_GROWN", "{more:?}");
    ensure!(agent.extend("a2", 0)?? == 8 * MIB);
    agent.detach("a1")??;
    agent.detach("a2")??;
    no_controllers(node)?;

    let mut by_ipv6 = server.info(B);
    by_ipv6["data"]["portals"] = json!([["fd99::20", "4420", "tcp"]]);
    agent.attach("a3", "volume-b", &by_ipv6, &[])??;
    let disk = guest::sees(node, "volume-b")?;
    ensure!(disk.head == guest::hex("volume B........"), "{disk:?}");
    let connected = controllers(node)?;
    ensure!(
        connected == ["traddr=fd99::20 live 2 60 1 2"],
        "{connected:?}"
    );
    agent.detach("a3")??;
    no_controllers(node)?;
    path_of_others(node, &agent, &server)?;
    for (image, volume) in [(image_a, "volume-a"), (image_b, "volume-b")] {
        node.sh(&format!(
            "grep -aqF 'volattach-guest-was-here {volume}' {image}"
        ))?;
    }
    // One name for the host, for good.
    node.sh("grep -q '^nqn.2014-08.org.nvmexpress:uuid:' /etc/nvme/hostnqn && grep -q \"$(cat /etc/nvme/hostid)\" /etc/nvme/hostnqn")
        .map(drop)
}

/// A connection that somebody else has made is used, told of, and left alone.
fn path_of_others(node: &Node, agent: &Agent<'_>, server: &NvmeServer<'_>) -> Result<()> {
    let mut info = server.info(B);
    info["data"]["portals"] = json!([["10.99.0.20", "4420", "tcp"]]);
    let nqn = text(&info["data"], "target_nqn");
    // Even volattach's own time-out does not make the controller volattach's.
    node.sh(&format!(
        "printf 'transport=tcp,traddr=10.99.0.20,trsvcid=4420,nqn={nqn},hostnqn=%s,hostid=%s,fast_io_fail_tmo=15' \
         \"$(cat /etc/nvme/hostnqn)\" \"$(cat /etc/nvme/hostid)\" >/dev/nvme-fabrics"
    ))?;
    let theirs = controllers(node)?;
    ensure!(theirs.len() == 1, "{theirs:?}");
    agent.attach("a4", "volume-b", &info, &[])??;
    let disk = guest::sees(node, "volume-b")?;
    ensure!(disk.head == guest::hex("volume B........"), "{disk:?}");
    agent.detach("a4")??;
    ensure!(controllers(node)? == theirs, "{:?}", controllers(node)?);
    node.sh(
        "journalctl -q -o cat -u volattachd | grep -q 'others made this path' && \
         for it in /sys/class/nvme/nvme*/delete_controller; do echo 1 >$it; done",
    )?;
    no_controllers(node)
}

/// Each way to be wrong has its reason, and leaves no connection.
fn refusals(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let agent = Agent::start(
        node,
        &format!("{CONFIG}probe_timeout = \"4s\"\ndevice_timeout = \"4s\"\n"),
    )?;
    let server = NvmeServer::start(node, "tgt", &[20, 21])?;
    let try_with = |key: &str, value: Value, info: Value, reason: &str| -> Result<Failure> {
        let mut info = info;
        info["data"][key] = value;
        let failure = refused(agent.connect("c1", "v", &info, &[]), reason)?;
        no_controllers(node).context(reason.to_owned())?;
        Ok(failure)
    };
    let info = || server.info(A);
    let wrong = try_with(
        "target_nqn",
        json!("nqn.2026-01.org.lab:none"),
        info(),
        "LOGIN_FAILED",
    )?;
    ensure!(wrong.message.contains("hostnqn"), "{wrong:?}");
    let absent = "7c9e6679-7425-40de-944b-e07fc1f90aff";
    let none = try_with("vol_uuid", json!(absent), info(), "DEVICE_NOT_FOUND")?;
    ensure!(
        none.message.contains("within 4 s") && none.message.contains(A),
        "{none:?}"
    );
    // The number is there, and is another volume's.
    let other = try_with(
        "volume_nguid",
        json!(absent),
        server.by_number(7),
        "DEVICE_IDENTITY",
    )?;
    ensure!(other.message.contains(A), "{other:?}");

    // A secret that this kernel would ignore: it is not even asked to connect.
    let secret = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:";
    let chap = try_with("dhchap_key", json!(secret), info(), "CREDENTIALS_INVALID")?;
    ensure!(
        !chap.message.contains(secret) && chap.message.contains("unauthenticated"),
        "{chap:?}"
    );
    node.sh("! journalctl -q -b -u volattachd | grep -F DHHC-1")?;
    try_with(
        "host_nqn",
        json!("nqn.2014-08.org.nvmexpress:other"),
        info(),
        "INVALID_CONNECTION_INFO",
    )?;

    // A closed port, and a server that is none.
    let at = |port: u16| json!([["10.99.0.1", port, "tcp"]]);
    try_with("portals", at(4420), info(), "SERVER_UNREACHABLE")?;
    let ssh = try_with("portals", at(22), info(), "SERVER_UNREACHABLE")?;
    ensure!(ssh.message.contains("does not speak NVMe/TCP"), "{ssh:?}");
    // A silent one.
    server.verb("silence {}")?;
    let silent = try_with("vol_uuid", json!(A), info(), "SERVER_TIMEOUT");
    server.verb("unsilence {}")?;
    silent?;
    agent.released()?;
    // A device that the host itself uses is not taken away.
    let connected = agent.connect("c1", "v", &info(), &[])??;
    node.sh(&format!(
        "dmsetup create held --table '0 8 linear {} 0'",
        text(&connected, "host_path")
    ))?;
    let held = refused(agent.disconnect("c1"), "DEVICE_BUSY");
    node.sh("dmsetup remove --retry held")?;
    ensure!(held?.message.contains("lsblk"));
    agent.disconnect("c1")??;
    no_controllers(node)?;
    swapped(node, &agent, &server)
}

/// The storage gives a namespace's number to another volume while the host still has the first: no guest ever sees a byte of
/// the wrong one.
fn swapped(node: &Node, agent: &Agent<'_>, server: &NvmeServer<'_>) -> Result<()> {
    let mut info = server.info(A);
    info["data"]["ns_id"] = json!(7);
    agent.attach("a1", "volume-a", &info, &["--access", "ro"])??;
    ensure!(guest::sees(node, "volume-a")?.head == guest::hex("volume A........"));

    server.verb("swap {} 7 3")?;
    // No size of the second is told for the first: its device says that it is another, or went when the kernel noticed.
    let extended = agent.extend("a1", 0)?.err().context("extended")?;
    let reasons = ["DEVICE_IDENTITY", "VOLUME_NOT_FOUND", "DISK_LOST"];
    ensure!(reasons.contains(&&*extended.reason), "{extended:?}");
    // The same request once more: the disk of the first is not taken for it any more, nor is the number.
    let again = refused(
        agent.attach("a2", "volume-a2", &info, &["--access", "ro"]),
        "DEVICE_IDENTITY",
    )?;
    ensure!(again.message.contains(B), "{again:?}");
    // Whoever asks for what is there now gets that.
    agent.attach("a3", "volume-b", &server.info(B), &["--access", "ro"])??;
    ensure!(guest::sees(node, "volume-b")?.head == guest::hex("volume B........"));
    agent.detach("a3")??;
    agent.detach("a1")??;
    no_controllers(node)
}

/// Reads and writes the device until that fails; a line in its journal for each round.
fn load(node: &Node, device: &str) -> Result<String> {
    let io = format!(
        "dd if={device} of=/dev/null bs=4096 count=64 iflag=direct status=none &&
         dd if=/dev/zero of={device} bs=4096 seek=8 count=64 oflag=direct conv=notrunc,nocreat status=none"
    );
    node.sh(&format!(
        "systemd-run -q --collect --unit=load sh -c {}",
        quote(&format!("while {io}; do echo; sleep 0.1; done; exit 1"))
    ))?;
    node.wait(
        "I/O",
        "journalctl -q -b -u load | grep -q .",
        Duration::from_secs(180),
    )?;
    Ok(io)
}

/// What is asked of dead portals and servers ends, and another server's volume comes and goes meanwhile.
fn faults(lab: &Lab) -> Result<()> {
    let node = &lab.node;
    let ill = NvmeServer::start(node, "ill", &[20, 21])?;
    let well = NvmeServer::empty(node, "well", &[22])?;
    well.volume(1, C, "", "volume C........")?;
    paths(node, &ill, &well)?;
    silent(node, &ill, &well)
}

/// Portals that are silent at the attach, die under I/O, one after the other, and are all gone at the disconnect.
fn paths(node: &Node, ill: &NvmeServer<'_>, well: &NvmeServer<'_>) -> Result<()> {
    let agent = Agent::start(node, CONFIG)?;
    ill.verb("silence {} 20")?;
    agent.attach("a1", "volume-a", &ill.info(A), &[])??;
    ensure!(guest::sees(node, "volume-a")?.write == Ok(()));
    ensure!(controllers(node)?.len() == 1, "{:?}", controllers(node)?);
    ill.verb("unsilence {} 20")?;
    agent.released()?;
    // Another volume of the subsystem brings the path back for both.
    let connected = agent.connect("c1", "volume-b", &ill.info(B), &[])??;
    ensure!(controllers(node)?.len() == 2, "{:?}", controllers(node)?);

    let io = load(node, text(&connected, "host_path"))?;
    ill.verb("silence {} 21")?;
    node.wait(
        "the kernel gives the path up",
        "grep -lx connecting /sys/class/nvme/*/state | grep -q .",
        Duration::from_secs(120),
    )?;
    node.sh(&io)?;
    // What is asked of the volume now is answered by the live path alone.
    ensure!(agent.attach("a1", "volume-a", &ill.info(A), &[])??["state"] == "attached");
    ill.verb("unsilence {} 21")?;
    node.wait(
        "the path returns",
        "! grep -Lx live /sys/class/nvme/*/state | grep -q .",
        Duration::from_secs(120),
    )?;
    // The other port is taken away: refused instead of silent.
    ill.verb("close {} 20")?;
    node.sh(&io)?;
    ensure!(
        node.sh("systemctl is-active load")? == "active",
        "I/O failed with a path alive"
    );
    agent.detach("a1")??;

    // Now no path is left: I/O fails rather than hang, and another server's volume comes and goes.
    ill.verb("silence {} 21")?;
    node.wait(
        "the end of I/O",
        "! systemctl is-active -q load",
        Duration::from_secs(120),
    )?;
    comes_and_goes(node, &agent, well)?;
    unwritten(node, &agent, "c1", text(&connected, "host_path"))?;
    ended(node, &agent, "c1", || ill.verb("unsilence {} 21").map(drop))?;
    ill.verb("open {} 20")?;
    agent.released()?;
    no_controllers(node)
}

/// What is in the host's cache, and cannot be written any more, does not go without a word; by force it does.
fn unwritten(node: &Node, agent: &Agent<'_>, id: &str, device: &str) -> Result<()> {
    // Whoever closes a device last has it written: one holds it open. It goes on writing, for the daemon itself tries the refused disconnect
    // again, which ends where nothing was written since.
    node.sh(&format!(
        "systemd-run -q --collect --unit=writer sh -c {} &&
         until [ -e /run/written ]; do sleep 0.1; done; rm /run/written",
        quote(&format!(
            "exec 3<>{device}; while dd if=/dev/zero bs=4096 count=1 status=none >&3; do touch /run/written; sleep 0.1; done; exec sleep 1000"
        ))
    ))?;
    let lost = refused(agent.disconnect(id), "DEVICE_BUSY");
    let forced = agent.call(&["--timeout", "140", "disconnect", "--force", id], "");
    node.sh("systemctl stop writer; rm -f /run/written")?;
    let (lost, forced) = (lost?.message, forced?);
    ensure!(lost.contains("what was written last is lost"), "{lost}");
    // The controllers may take their time to go.
    if let Err(failure) = forced {
        ensure!(!failure.message.contains("lost"), "{failure:?}");
        ensure!(failure.reason == "DEVICE_BUSY", "{failure:?}");
    }
    Ok(())
}

/// Connects the server's volume C, reads and disconnects it.
fn comes_and_goes(node: &Node, agent: &Agent<'_>, server: &NvmeServer<'_>) -> Result<()> {
    let connected = agent.connect("well", "well", &server.info(C), &[])??;
    let path = text(&connected, "host_path");
    let head = node.sh(&format!(
        "dd if={path} bs=512 count=1 iflag=direct status=none | head -c 16"
    ))?;
    ensure!(head == "volume C........", "{head:?}");
    agent.disconnect("well")??;
    Ok(())
}

/// Disconnects from a server that is not there: done, or told that the kernel has not let go, and done once `back` has brought
/// the server back.
fn ended(
    node: &Node,
    agent: &Agent<'_>,
    id: &str,
    back: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if let Err(failure) = agent.call(&["--timeout", "140", "disconnect", id], "")? {
        ensure!(failure.reason == "DEVICE_BUSY", "{failure:?}");
    }
    back()?;
    node.wait(
        "nothing is connected",
        &format!("volattach disconnect {id} && ! volattach show {id}"),
        Duration::from_secs(200),
    )
}

/// A server that is silent at the connect, half-way through it, and from the disconnect on. Another one's volume comes and goes
/// meanwhile.
fn silent(node: &Node, ill: &NvmeServer<'_>, well: &NvmeServer<'_>) -> Result<()> {
    // One that answers the daemon's question, and the kernel's no more: the kernel cannot be told to stop, so the connect is
    // over when it has.
    node.write("/tmp/mute.py", MUTE)?;
    node.sh("systemd-run -q --collect --unit=mute python3 /tmp/mute.py")?;
    node.wait(
        "a mute server",
        "ss -ltn | grep -q :4421",
        Duration::from_secs(180),
    )?;
    let agent = Agent::start(
        node,
        &format!("{CONFIG}connect_timeout = \"1s\"\nprobe_timeout = \"10s\"\n"),
    )?;
    let mut info = ill.info(B);
    info["data"]["portals"] = json!([["10.99.0.1", 4421, "tcp"]]);
    let mute = refused(agent.connect("c1", "v", &info, &[]), "SERVER_TIMEOUT");
    node.sh("systemctl stop mute; rm /tmp/mute.py")?;
    ensure!(mute?.message.contains("within 1 s"));
    no_controllers(node)?;

    // Its answer is waited for as long as need be for another server's volume to come and go, and for it to return.
    let agent = Agent::start(node, &format!("{CONFIG}probe_timeout = \"2m\"\n"))?;
    ill.verb("silence {}")?;
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let (info, patient) = (ill.info(B), ["--timeout", "140"]);
            agent.connect("c1", "v", &info, &patient)
        });
        let undisturbed = node
            .wait(
                "the call is under way",
                "volattach show c1",
                Duration::from_secs(180),
            )
            .and_then(|()| comes_and_goes(node, &agent, well));
        let waited = !connecting.is_finished();
        ill.verb("unsilence {}")?;
        let connected = connecting.join();
        undisturbed?;
        ensure!(waited, "a silent server was connected to");
        connected.map_err(|_| anyhow::anyhow!("the connect panicked"))???;
        anyhow::Ok(())
    })?;

    // The kernel has not noticed yet, and takes its time to.
    ill.verb("silence {}")?;
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| ended(node, &agent, "c1", || Ok(())));
        let undisturbed = comes_and_goes(node, &agent, well);
        let ended = ending.join();
        undisturbed?;
        ended.map_err(|_| anyhow::anyhow!("the disconnect panicked"))?
    })?;
    no_controllers(node)?;
    ill.verb("unsilence {}").map(drop)
}

/// Answers the first connection's request (NVM Express TCP Transport Specification 1.0c, 3.6.2.3), and nothing after it.
const MUTE: &[u8] = b"import socket
listener = socket.create_server(('10.99.0.1', 4421))
connections = []
while True:
    connections.append(listener.accept()[0])
    if len(connections) == 1:
        connections[0].recv(128)
        connections[0].sendall(bytes([1, 0, 128, 0, 128]) + bytes(123))
";
