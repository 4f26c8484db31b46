"""What the client makes of each answer, by a service that answers as it is told to."""

import inspect
import re
import tempfile
import threading
import time
import unittest
from concurrent import futures

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

import volattach
from volattach import v1

SERVICE = v1.DESCRIPTOR.services_by_name["VolumeAttach"]
LONG = 30  # seconds


class Answer:
    """A failure as the daemon has it."""

    def __init__(self, code, reason, *, retry_after=None):
        self.code = code
        details = [error_details_pb2.ErrorInfo(reason=reason, domain="volattach", metadata={"volume_id": "vol-1"})]
        if retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(int(retry_after * 1000))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        self.status = status_pb2.Status(code=code.value[0], message=f"it is {reason}")
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            self.status.details.append(packed)

    def send(self, context):
        context.set_trailing_metadata([("grpc-status-details-bin", self.status.SerializeToString())])
        context.abort(self.code, self.status.message)


class Silence:
    """No answer before the deadline."""

    def send(self, context):
        over = threading.Event()
        if context.add_callback(over.set):
            over.wait(LONG)


class Script(grpc.GenericRpcHandler):
    """Answers each call with the next of `answers`, and with an empty message once there is none. A watch takes all up to a failure.
    Remembers what it was sent.
    """

    def __init__(self):
        self.answers = []
        self.calls = []  # (time, request, metadata, seconds left)

    def service(self, details):
        def heard(request, context):
            self.calls.append((time.monotonic(), request, dict(details.invocation_metadata), context.time_remaining()))

        def answer(request, context):
            heard(request, context)
            if self.answers:
                self.answers.pop(0).send(context)
            return b""

        def watch(request, context):
            heard(request, context)
            while isinstance(self.answers[0], v1.WatchAttachmentsResponse):
                yield self.answers.pop(0).SerializeToString()
            self.answers.pop(0).send(context)

        if details.method.endswith("/WatchAttachments"):
            return grpc.unary_stream_rpc_method_handler(watch)
        return grpc.unary_unary_rpc_method_handler(answer)


class Rules(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        target = f"unix:{directory.name}/socket"
        self.script = Script()
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[self.script])
        server.add_insecure_port(target)
        server.start()
        self.addCleanup(lambda: server.stop(None).wait())
        self.client = volattach.Client(target, timeout=LONG)
        self.addCleanup(self.client.close)

    def outcome(self, *answers, call=None):
        """The error that the call raises after these answers, and how often it was made."""
        self.script.answers[:] = answers
        self.script.calls.clear()
        try:
            (call or self.client.get_connector)()
        except volattach.VolattachError as error:
            return error, len(self.script.calls)
        return None, len(self.script.calls)

    def test_what_passes_by_itself_is_called_again(self):
        code = grpc.StatusCode
        for answer in [
            Answer(code.ABORTED, "OPERATION_IN_PROGRESS"),
            Answer(code.UNAVAILABLE, "SHUTTING_DOWN"),
            Answer(code.DEADLINE_EXCEEDED, "SERVER_TIMEOUT"),
            Answer(code.INTERNAL, "INTERNAL"),
            Answer(code.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after=0.01),
        ]:
            with self.subTest(answer.code):
                self.assertEqual(self.outcome(answer), (None, 2))

    def test_what_does_not_is_raised_at_once(self):
        code = grpc.StatusCode
        for answer, kind in [
            (Answer(code.INVALID_ARGUMENT, "INVALID_REQUEST"), volattach.InvalidArgument),
            (Answer(code.NOT_FOUND, "VOLUME_NOT_FOUND"), volattach.NotFound),
            (Answer(code.ALREADY_EXISTS, "ATTACHMENT_CONFLICT"), volattach.AlreadyExists),
            (Answer(code.FAILED_PRECONDITION, "VOLUME_IN_USE"), volattach.FailedPrecondition),
            (Answer(code.PERMISSION_DENIED, "PERMISSION_DENIED"), volattach.PermissionDenied),
            (Answer(code.UNAUTHENTICATED, "UNAUTHENTICATED"), volattach.Unauthenticated),
            (Answer(code.RESOURCE_EXHAUSTED, "BUS_FULL"), volattach.VolattachError),
            (Answer(code.DEADLINE_EXCEEDED, "UNPLUG_PENDING"), volattach.UnplugPending),
            (Answer(code.OUT_OF_RANGE, "WATCH_EXPIRED"), volattach.WatchExpired),
        ]:
            error, calls = self.outcome(answer)
            reason = error.reason
            with self.subTest(reason):
                self.assertIs(type(error), kind)
                self.assertEqual((error.code, error.message), (answer.code, f"it is {reason}"))
                self.assertEqual(error.metadata, {"volume_id": "vol-1"})
                self.assertEqual(calls, 1)

    def test_a_defect_is_met_twice(self):
        answer = Answer(grpc.StatusCode.INTERNAL, "JOURNAL_FAILED")
        error, calls = self.outcome(answer, answer, answer)
        self.assertEqual((error.reason, calls), ("JOURNAL_FAILED", 2))

    def test_a_record_is_forgotten_once(self):
        answer = Answer(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        _, calls = self.outcome(answer, call=lambda: self.client.forget_attachment(attachment_id="a", confirmed=True))
        self.assertEqual(calls, 1)
        _, calls = self.outcome(answer, call=lambda: self.client.forget_attachment(attachment_id="a"))
        self.assertEqual(calls, 2)

    def test_the_daemon_says_when(self):
        answer = Answer(grpc.StatusCode.UNAVAILABLE, "SERVER_QUARANTINED", retry_after=0.7)
        self.assertEqual(self.outcome(answer), (None, 2))
        first, second = self.script.calls
        self.assertGreaterEqual(second[0] - first[0], 0.7)
        # Later than the caller waits: then the error comes at once.
        answer = Answer(grpc.StatusCode.UNAVAILABLE, "SERVER_QUARANTINED", retry_after=3600)
        error, calls = self.outcome(answer)
        self.assertEqual((error.retry_after, calls), (3600, 1))

    def test_the_deadline_goes_with_each_try(self):
        answer = Answer(grpc.StatusCode.ABORTED, "OPERATION_IN_PROGRESS", retry_after=1)
        self.assertEqual(self.outcome(answer, call=lambda: self.client.get_connector(timeout=10)), (None, 2))
        first, second = (call[3] for call in self.script.calls)
        self.assertLessEqual(first, 10)
        self.assertLessEqual(second, first - 0.5)  # gRPC rounds what it sends

    def test_a_reason_outlives_the_deadline(self):
        answer = Answer(grpc.StatusCode.UNAVAILABLE, "SERVER_UNREACHABLE")
        error, calls = self.outcome(answer, Silence(), call=lambda: self.client.get_connector(timeout=2))
        self.assertEqual((error.reason, calls), ("SERVER_UNREACHABLE", 2))
        error, calls = self.outcome(Silence(), call=lambda: self.client.get_connector(timeout=0.5))
        self.assertEqual((error.reason, error.code, calls), ("", grpc.StatusCode.DEADLINE_EXCEEDED, 1))

    def test_tokens_are_sent(self):
        tokens = iter(["first", "second"])
        client = self.client.with_tokens(lambda: next(tokens), "service")
        answer = Answer(grpc.StatusCode.ABORTED, "OPERATION_IN_PROGRESS")
        self.outcome(answer, call=client.get_connector)
        sent = [(call[2]["x-auth-token"], call[2]["x-service-token"]) for call in self.script.calls]
        self.assertEqual(sent, [("first", "service"), ("second", "service")])
        self.outcome()
        self.assertNotIn("x-auth-token", self.script.calls[0][2])

    def test_a_watch_is_let_in_again_until_it_is_refused(self):
        synced = v1.WatchAttachmentsResponse(revision="5")
        refused = Answer(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        busy = Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES", retry_after=0.01)
        error, _ = self.outcome(busy, synced, refused, busy, refused, call=lambda: list(self.client.watch_attachments()))
        self.assertIs(type(error), volattach.Unauthenticated)
        sent = [v1.WatchAttachmentsRequest.FromString(call[1]).resume_after for call in self.script.calls]
        self.assertEqual(sent, ["", "", "5", "5"])

    def test_a_watch_starts_anew_when_its_list_breaks_off(self):
        attachment = v1.WatchAttachmentsResponse(attachment=v1.Attachment(attachment_id="att-1"))
        left = v1.WatchAttachmentsResponse(attachment=v1.Attachment(attachment_id="att-1"), left_filter=True, revision="6")
        stopping = Answer(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        expired = Answer(grpc.StatusCode.OUT_OF_RANGE, "WATCH_EXPIRED")
        end = Answer(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
        self.script.answers = [attachment, stopping, attachment, expired, attachment, left, end]
        kinds = []
        with self.assertRaises(volattach.PermissionDenied):
            for event in self.client.watch_attachments():
                kinds.append(event.kind)
        list_of_one = [volattach.Kind.RESET, volattach.Kind.CHANGED]
        self.assertEqual(kinds, [*list_of_one, *list_of_one, *list_of_one, volattach.Kind.GONE])


class Surface(unittest.TestCase):
    def test_each_call_has_its_method_and_fields(self):
        extra = {
            "WatchAttachments": ["timeout", "patience"],
            # The token of the next page is the iterator's.
            "ListAttachments": ["timeout"],
        }
        hidden = {"page_token"}
        for method in SERVICE.methods:
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
            fields = [field.name for field in method.input_type.fields if field.name not in hidden]
            if fields == ["request"]:
                fields = [field.name for field in method.input_type.fields_by_name["request"].message_type.fields]
            parameters = inspect.signature(getattr(volattach.Client, name)).parameters
            with self.subTest(name):
                self.assertEqual(sorted(parameters), sorted(["self", *fields, *extra.get(method.name, ["timeout"])]))

    def test_messages_show_no_secret(self):
        secret = "hunter2-of-a-share"
        chap = v1.IscsiChap(username="bob", password=secret, password_in=secret)
        for info in [
            v1.ConnectionInfo(cinder_json=f'{{"options": "password={secret}"}}'),
            v1.ConnectionInfo(smb=v1.SmbVolume(credentials=v1.SmbCredentials(username="bob", password=secret))),
            v1.ConnectionInfo(iscsi=v1.IscsiVolume(paths=[v1.IscsiPath(portal="10.0.0.1:3260")], chap=chap)),
        ]:
            request = v1.AttachVolumeRequest(attachment_id="att-1", connection_info=info)
            plan = v1.PlanAttachRequest(request=request)
            for message in [info, request, plan, chap]:
                for text in [repr(message), str(message), f"{[message]}"]:
                    self.assertNotIn(secret, text)
                    self.assertIn("***", text)
            self.assertIn(secret.encode(), request.SerializeToString(), "it is sent all the same")
        # The fields that are hidden are all whose names speak of a secret.
        names = {field.name for message in v1.DESCRIPTOR.message_types_by_name.values() for field in message.fields}
        speaking = {name for name in names if re.search("password|secret|token|cinder", name)}
        self.assertEqual(speaking - {"page_token", "next_page_token"}, v1.SECRETS)

    def test_targets(self):
        for target in ["/run/volattach.sock", "http://host:7443", "https://host", "host:7443"]:
            with self.subTest(target), self.assertRaises(ValueError):
                volattach.Client(target)
        with self.assertRaises(ValueError):
            volattach.Client("unix:/socket", ca="/etc/ssl/cert.pem")
