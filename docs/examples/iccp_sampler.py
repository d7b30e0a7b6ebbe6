"""Start a component under a controller (ICCP), configure it while it runs, stop it, and see how it ended.

    python iccp_sampler.py samples.csv                     for two seconds
    python iccp_sampler.py samples.csv --seconds 60 --interval 5

The component writes the load of this machine to the file now and then. It refuses a configuration that it cannot
use, and says at its end what it has done. It needs pip install 'packetwire[butler]'.
"""

import argparse
import os
import sys
import time

from packetwire import PacketwireError, RequestTimeout
from packetwire.iccp import Config, ConfigureRefused, Controller, Outcome, run_component

DEFAULT_INTERVAL = 0.1


def check(config):
    """Take a configuration, or raise what is wrong with it: the controller is told."""
    options = Config.from_proto(config).options
    if options.get("interval", DEFAULT_INTERVAL) <= 0:
        raise ValueError("the interval must be more than 0 seconds")
    with open(options["file"], "a"):
        pass  # it can be written


def sample(control):
    """The work of the component: it ends when it is told to."""
    samples = 0
    while not control.wait_stop(
        control.config.options.get("interval", DEFAULT_INTERVAL) if control.config else 0.01
    ):
        if control.config:  # it has begun
            with open(control.config.options["file"], "a") as file:
                file.write(f"{time.time():.3f},{os.getloadavg()[0]}\n")
            samples += 1
    return f"{samples} samples were written"


def control(path, seconds, interval):
    """Run the component for some seconds; whether it ended well."""
    with Controller() as controller:
        sampler = controller.start([sys.executable, __file__, "--component"])
        sampler.configure({"file": os.path.abspath(path)})
        print("the component runs", flush=True)
        if interval is not None:
            sampler.configure({"file": os.path.abspath(path), "interval": interval})
        try:
            end = sampler.wait(seconds)  # it should not end by itself, but if it does we want to know
        except RequestTimeout:
            end = sampler.stop()
    print(f"the component ended: {end.outcome.name}, {' '.join(end.details)}")
    return end.outcome is Outcome.OK


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", metavar="FILE", help="where the samples go")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="how long (default: %(default)g)")
    parser.add_argument(
        "--interval", type=float, metavar="S", help=f"between two samples (default: {DEFAULT_INTERVAL})"
    )
    parser.add_argument("--component", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.component:
        return run_component(sample, on_config_request=check)
    if not args.file:
        parser.error("give a FILE")
    try:
        return 0 if control(args.file, args.seconds, args.interval) else 1
    except KeyboardInterrupt:  # the end of `with` has stopped the component
        return 130
    except ConfigureRefused as error:
        print(f"iccp_sampler: {error.error}", file=sys.stderr)
    except (PacketwireError, OSError) as error:
        print(f"iccp_sampler: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
