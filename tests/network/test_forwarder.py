"""Published ports, with the test itself in the part of a container's init and of the service in it."""

from __future__ import annotations

import concurrent.futures
import errno
import fcntl
import hashlib
import os
import select
import socket
import struct
import termios

import pytest

from pytest_capsule.network.connector import Connector, answer_connected, answer_refused, receive_with_fds
from pytest_capsule.network.datagrams import DatagramPort
from pytest_capsule.network.events import Loop
from pytest_capsule.network.forwarder import publish, unpublish
from pytest_capsule.network.ports import PortMapping, listen
from pytest_capsule.network.streams import UNANSWERED

SECONDS = 60
REQUEST = b'{"connect": 80}'
RESET = struct.pack("ii", 1, 0)


class Published:
    """A published port, the service behind it, and init's end of the connector."""

    def __init__(self, control, key="web", protocol="tcp"):
        self.control, self.key = control, key
        self.init, connector = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.init.settimeout(SECONDS)
        with listen(PortMapping(80, protocol=protocol)) as listener, connector:
            self.address = listener.getsockname()
            publish(control, key, listener, connector, REQUEST)
        self.service = listen(PortMapping(80, protocol=protocol))
        self.service.settimeout(SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.init.close()
        self.service.close()

    def client(self):
        return socket.create_connection(self.address, timeout=SECONDS)

    def question(self):
        """The end on which the next question wants its answer."""
        request, fds = receive_with_fds(self.init)
        assert request == REQUEST
        (fd,) = fds
        return socket.socket(fileno=fd)

    def answer(self, question):
        """Connect to the service as init does; the service's end."""
        with question, socket.create_connection(self.service.getsockname(), timeout=SECONDS) as inner:
            answer_connected(question, inner)
            server, _ = self.service.accept()
        server.settimeout(SECONDS)
        return server

    def pair(self):
        """A client outside and the service's end of its connection."""
        client = self.client()
        return client, self.answer(self.question())


@pytest.fixture
def port(control):
    with Published(control) as published:
        yield published


def settled(control):
    """Wait until the forwarder has seen all that happened before: it answers after the events at hand."""
    for number in range(3):
        unpublish(control, f"none {number}")


def read_all(sock):
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def test_a_connection_reaches_the_service_and_its_answer_comes_back(port):
    client, server = port.pair()
    with client, server:
        client.sendall(b"ping")
        assert server.recv(100) == b"ping"
        server.sendall(b"pong")
        assert client.recv(100) == b"pong"


def test_what_a_client_sends_before_the_inner_connection_stands_is_kept(port):
    with port.client() as client:
        client.sendall(b"early")
        client.shutdown(socket.SHUT_WR)
        with port.answer(port.question()) as server:
            assert read_all(server) == b"early"
            server.sendall(b"late")
        assert read_all(client) == b"late"


def test_a_hundred_connections_at_once_lose_nothing(port):
    clients = [port.client() for _ in range(100)]
    # Answered in the opposite order: the questions are independent of each other.
    questions = [port.question() for _ in clients]
    servers = [port.answer(question) for question in reversed(questions)]
    texts = {hashlib.sha256(bytes([number])).hexdigest().encode() * 50 for number in range(100)}
    for client, text in zip(clients, texts, strict=True):
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
    received = []
    for server in servers:
        received.append(read_all(server))
        server.sendall(received[-1][::-1])
        server.close()
    assert set(received) == texts
    for client, text in zip(clients, texts, strict=True):
        assert read_all(client) == text[::-1]
        client.close()


def test_each_side_may_end_first_and_the_other_goes_on(port):
    client, server = port.pair()
    with client, server:
        server.sendall(b"greeting")
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"greeting"
        client.sendall(b"still here")
        assert server.recv(100) == b"still here"
        client.shutdown(socket.SHUT_WR)
        assert server.recv(100) == b""


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_big_transfer_arrives_whole(port, direction):
    client, server = port.pair()
    source, target = (client, server) if direction == "in" else (server, client)
    block = os.urandom(1 << 20)
    sent, received = hashlib.sha256(), hashlib.sha256()

    def send():
        for number in range(64):
            data = block[number:] + block[:number]
            sent.update(data)
            source.sendall(data)
        source.shutdown(socket.SHUT_WR)

    with client, server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        while data := target.recv(1 << 18):
            received.update(data)
        sending.result()
    assert received.digest() == sent.digest()


def test_both_directions_at_once_do_not_wait_for_each_other(port):
    client, server = port.pair()
    data = os.urandom(8 << 20)

    def send(sock):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    with client, server, concurrent.futures.ThreadPoolExecutor(3) as pool:
        sending = [pool.submit(send, client), pool.submit(send, server)]
        at_server = pool.submit(read_all, server)
        assert read_all(client) == data
        assert at_server.result() == data
        for one in sending:
            one.result()


def test_a_reader_that_does_not_read_stops_the_sender_and_loses_nothing(port):
    client, server = port.pair()
    block = bytes(range(256)) * 256
    most = 64 << 20  # the kernel's buffers of four sockets and a pipe are well below
    client.setblocking(False)
    sent = 0
    # Half a second with no room is taken for "stopped"; taking it too early cannot make this fail.
    while sent < most and select.select([], [client], [], 0.5)[1]:
        sent += client.send(block[sent % len(block) :])
    assert sent < most
    client.settimeout(SECONDS)
    with client, server:
        # And another connection is not held up by the one that is stuck.
        other, other_server = port.pair()
        with other, other_server:
            other.sendall(b"passing by")
            assert other_server.recv(100) == b"passing by"
        client.shutdown(socket.SHUT_WR)
        received = read_all(server)
    assert len(received) == sent
    assert received == (block * (sent // len(block) + 1))[:sent]


def test_a_refused_inner_connection_resets_the_client_at_once(port):
    with port.client() as client, port.question() as question:
        answer_refused(question, errno.ECONNREFUSED)
        with pytest.raises(ConnectionResetError):
            client.recv(100)


@pytest.mark.parametrize("answer", [b"not json", b"[]", b'{"ok": true}', b'{"ok": false, "errno": "x"}', b"{}"])
def test_an_answer_that_is_none_resets_the_client_and_harms_nobody_else(port, answer):
    with port.client() as client, port.question() as question:
        question.send(answer)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    client, server = port.pair()
    client.close()
    server.close()


def test_an_init_that_drops_the_question_resets_the_client(port):
    with port.client() as client:
        port.question().close()
        with pytest.raises(ConnectionResetError):
            client.recv(100)


def test_a_slow_answer_holds_up_only_its_own_connection(port):
    slow = port.client()
    question = port.question()
    quick, quick_server = port.pair()
    quick.sendall(b"quick")
    assert quick_server.recv(100) == b"quick"
    with slow, quick, quick_server, port.answer(question) as slow_server:
        slow.sendall(b"slow")
        assert slow_server.recv(100) == b"slow"


def test_a_client_that_leaves_takes_its_question_with_it(port):
    client = port.client()
    with port.question() as question:
        question.settimeout(SECONDS)
        reset(client)
        assert question.recv(100) == b""
        answer_refused(question, errno.ECONNREFUSED)


def test_only_so_many_questions_are_open_and_the_rest_wait_in_the_kernel(port):
    clients = [port.client() for _ in range(UNANSWERED + 20)]
    questions = [port.question() for _ in range(UNANSWERED)]
    settled(port.control)
    assert select.select([port.init], [], [], 0)[0] == []
    for question in questions:
        port.answer(question).close()
    for _ in range(20):
        port.answer(port.question()).close()
    for client in clients:
        with client:
            assert client.recv(100) == b""


@pytest.mark.parametrize("control", [64], indirect=True)
def test_a_forwarder_with_few_open_files_serves_one_after_another(port):
    clients = [port.client() for _ in range(40)]
    for number, client in enumerate(clients):
        with client, port.answer(port.question()) as server:
            client.sendall(b"%d" % number)
            client.shutdown(socket.SHUT_WR)
            assert read_all(server) == b"%d" % number


@pytest.mark.parametrize("turn", range(20))
def test_a_reset_by_the_service_comes_after_the_bytes_before_it(port, turn):
    client, server = port.pair()
    with client:
        server.sendall(b"answer")
        reset(server)
        assert client.recv(100) == b"answer"
        with pytest.raises(ConnectionResetError):
            client.recv(100)


def test_a_service_that_answers_without_reading_it_all_is_heard(port):
    client, server = port.pair()
    with client:
        client.setblocking(False)
        while select.select([], [client], [], 0.2)[1]:
            client.send(bytes(1 << 16))
        client.settimeout(SECONDS)
        server.sendall(b"413 too large")
        server.close()  # with unread bytes: the kernel sends a reset (RFC 2525, 2.17)
        assert client.recv(100) == b"413 too large"


def test_a_slow_client_gets_all_that_came_before_the_reset(port):
    client, server = port.pair()
    data = os.urandom(1 << 20)
    with client:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            sending = pool.submit(server.sendall, data)
            first = client.recv(1 << 10)
            while not (sending.done() and unsent(server) == 0):
                first += client.recv(1 << 10)
        reset(server)
        rest = b""
        with pytest.raises(ConnectionResetError):
            while True:
                rest += client.recv(1 << 12)
    assert first + rest == data


def unsent(sock):
    answer = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, "little")


def test_a_reset_by_the_client_reaches_the_service(port):
    client, server = port.pair()
    with server:
        client.sendall(b"x")
        assert server.recv(100) == b"x"
        reset(client)
        with pytest.raises(ConnectionResetError):
            server.recv(100)


def test_a_reset_after_an_end_reaches_the_service(port):
    client, server = port.pair()
    with server:
        client.sendall(b"x")
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"x"
        reset(client)
        poll = select.poll()
        poll.register(server, 0)
        ((_, events),) = poll.poll(SECONDS * 1000)
        assert events & select.POLLERR


def test_unpublish_closes_the_port_and_its_connections(port):
    client, server = port.pair()
    waiting = port.client()
    with port.question() as question:
        unpublish(port.control, port.key)
        question.settimeout(SECONDS)
        assert question.recv(100) == b""
    with client, server, waiting:
        for sock in (client, server, waiting):
            with pytest.raises(ConnectionResetError):
                sock.recv(100)
    with pytest.raises(ConnectionRefusedError):
        port.client()
    with socket.create_server(port.address):
        unpublish(port.control, port.key)


def test_unpublishing_one_port_leaves_the_other(control):
    with Published(control, "one") as one, Published(control, "two") as two:
        client, server = two.pair()
        unpublish(control, "one")
        with client, server, pytest.raises(ConnectionRefusedError):
            one.client()
        client, server = two.pair()
        with client, server:
            client.sendall(b"here")
            assert server.recv(100) == b"here"


def test_when_the_container_is_gone_its_port_is_closed_and_what_it_sent_still_arrives(port):
    client, server = port.pair()
    server.sendall(b"last words")
    port.init.close()
    server.close()
    settled(port.control)
    with pytest.raises(ConnectionRefusedError):
        port.client()
    with client:
        assert read_all(client) == b"last words"


def test_one_key_is_one_port(port):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, listen(PortMapping(80)) as listener, pytest.raises(FileExistsError):
        publish(port.control, port.key, listener, theirs, REQUEST)


@pytest.mark.parametrize(
    "order", [b"nonsense", b"{}", b"[1]", b'{"do": "dance", "key": "x"}', b'{"do":"publish","key":"x"}']
)
def test_an_order_that_is_none_is_answered_so(port, order):
    port.control.send(order)
    assert port.control.recv(1000) == b'{"ok": false, "errno": %d}' % errno.EBADMSG
    client, server = port.pair()
    client.close()
    server.close()


def test_orders_to_a_forwarder_that_ended_are_an_error():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    with ours, pytest.raises(BrokenPipeError):
        unpublish(ours, "web")


def connected_datagrams(port):
    with port.question() as question, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inner:
        inner.connect(port.service.getsockname())
        answer_connected(question, inner)


def udp_client(port):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(port.address)
    client.settimeout(SECONDS)
    return client


def test_udp_clients_each_get_their_own_answers(control):
    with Published(control, protocol="udp") as port, udp_client(port) as one, udp_client(port) as two:
        one.send(b"one")
        connected_datagrams(port)
        assert port.service.recvfrom(100)[0] == b"one"
        one.send(b"one again")
        again, first = port.service.recvfrom(100)
        two.send(b"two")
        two.send(b"two, early")
        connected_datagrams(port)
        other, second = port.service.recvfrom(100)
        assert (again, other, port.service.recv(100)) == (b"one again", b"two", b"two, early")
        assert first != second
        port.service.sendto(b"to two", second)
        port.service.sendto(b"to one", first)
        assert (one.recv(100), two.recv(100)) == (b"to one", b"to two")


def test_a_udp_port_ends_with_unpublish_and_with_its_container(control):
    for end in (lambda port: unpublish(control, port.key), lambda port: port.init.close()):
        with Published(control, protocol="udp") as port:
            end(port)
            settled(control)
            unpublish(control, port.key)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
                free.bind(port.address)


def test_a_refused_udp_client_is_asked_for_again_with_its_next_datagram(control):
    with Published(control, protocol="udp") as port, udp_client(port) as client:
        client.send(b"lost")
        with port.question() as question:
            answer_refused(question, errno.ECONNREFUSED)
        settled(control)
        client.send(b"found")
        connected_datagrams(port)
        assert port.service.recv(100) == b"found"


def test_a_silent_udp_client_is_forgotten():
    loop = Loop(capacity=10)
    init, connector = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    outer = listen(PortMapping(80, protocol="udp"))
    answers = []
    with init, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        udp = DatagramPort(loop, outer, Connector(connector, REQUEST), idle=0.01)
        client.sendto(b"hello", outer.getsockname())

        def stop_when_forgotten():
            if answers and loop.open == 0:
                loop.stop()
            else:
                loop.later(0.01, stop_when_forgotten)

        loop.watch(init, select.EPOLLIN, lambda _events: answers.append(receive_with_fds(init)))
        stop_when_forgotten()
        loop.run()
        (_, fds) = answers[0]
        with socket.socket(fileno=fds[0]) as question:
            assert question.recv(100) == b""
        udp.close()
    loop.close()
