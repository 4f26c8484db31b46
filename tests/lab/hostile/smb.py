#!/usr/bin/python3
"""An SMB server that means ill: smb.py ADDRESS DIRECTORY serves DIRECTORY as the share vols to bob, and lies as the file
/run/lab-hostile/how says."""

import pathlib
import sys

from impacket import smb3structs as smb2
from impacket.ntlm import compute_lmhash, compute_nthash
from impacket.smbserver import SimpleSMBServer

address, directory = sys.argv[1:]
how = lambda: pathlib.Path("/run/lab-hostile/how").read_text().strip()
server = SimpleSMBServer(listenAddress=address, listenPort=445)
server.setSMB2Support(True)
server.addShare("VOLS", directory)
server.addCredential("bob", 0, compute_lmhash("pw"), compute_nthash("pw"))
server.setLogFile("")
inner = server._SimpleSMBServer__server


def hook(command, change):
    def changed(connection, smb_server, packet):
        answers, packets, status = original(connection, smb_server, packet)
        return change(answers, packets, status)

    original = inner.hookSmb2Command(command, changed)


def tree(answers, packets, status):
    if how() == "tree-status":
        return [smb2.SMB2Error()], None, 0xC0DEDEAD
    return answers, packets, status


def create(answers, packets, status):
    if status == 0 and how() == "size":
        answers[0]["EndofFile"] = answers[0]["AllocationSize"] = 0x7FFFFFFFFFFFFFFF
    if how() == "create-status":
        return [smb2.SMB2Error()], None, 0xC0DEDEAD
    return answers, packets, status


def read(answers, packets, status):
    if status == 0 and how() == "read-short":
        answers[0]["Buffer"] = answers[0]["Buffer"][:700]
        answers[0]["DataLength"] = len(answers[0]["Buffer"])
    if status == 0 and how() == "read-long":
        answers[0]["DataLength"] = 0x7FFFFFFF
    return answers, packets, status


hook(smb2.SMB2_TREE_CONNECT, tree)
hook(smb2.SMB2_CREATE, create)
hook(smb2.SMB2_READ, read)
server.start()
