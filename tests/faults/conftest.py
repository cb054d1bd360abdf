"""The server of the stages and the toy world, made once."""

import pytest

from faults.server import Server
from faults.stages import World


@pytest.fixture(scope='session')
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp('output'))
    yield server
    server.close()


@pytest.fixture(scope='session')
def world(tmp_path_factory, server):
    return World(tmp_path_factory.mktemp('world'), server)
