"""The commands of the program: each takes its arguments and returns its exit code."""

from saematch.cli.looking import env, info
from saematch.cli.pairs import match, verify
from saematch.cli.runs import demo, evaluate, layers, path
from saematch.cli.showing import export, report, serve

COMMANDS = {
    each.__name__: each for each in (demo, info, match, layers, path, evaluate, report, serve, export, verify, env)
}
