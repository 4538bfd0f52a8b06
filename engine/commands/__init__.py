"""The commands of the program: each takes its arguments and returns its exit code."""

from saematch.commands.looking import env, info
from saematch.commands.pairs import match, verify
from saematch.commands.runs import demo, evaluate, layers, path
from saematch.commands.showing import export, report, serve

COMMANDS = {
    each.__name__: each for each in (demo, info, match, layers, path, evaluate, report, serve, export, verify, env)
}
