"""The laws of localizers, commands and plugins hold."""

from t2iprobe_halves.commands import app
from t2iprobe_halves.method import Halves

from t2iprobe.testing import command_conformance, localizer_conformance, plugin_conformance

TestHalves = localizer_conformance(Halves)
TestCommand = command_conformance("halves", app)
TestPlugin = plugin_conformance("t2iprobe_halves")
