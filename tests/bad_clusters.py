"""Cluster files that cannot run, and the one line that each is answered with."""

from __future__ import annotations

GOOD = """\
[[workers]]
id = 0
address = "127.0.0.1:5700"

[[workers]]
id = 1
address = "127.0.0.1:5701"

[[workers]]
id = 2
address = "127.0.0.1:5702"
"""
LISTED = GOOD + '[cluster]\ntopology = "listed"\n'


def edited(old: str, new: str, text: str = GOOD) -> str:
    """The text with its one `old` replaced."""
    assert text.count(old) == 1
    return text.replace(old, new)


BAD: dict[str, tuple[str | bytes, str]] = {
    "a key that is unknown": (
        GOOD + "[training]\nlearning_rate = 0.1\n",
        "[training] learning_rate = 0.1: unknown key; allowed: rounds, batch_size, lr, "
        "momentum, local_steps, pace, publish_steps, device, threads, eval_every, bootstrap",
    ),
    "a table that is unknown": (
        GOOD + "[trainin]\nlr = 0.1\n",
        'trainin = {"lr": 0.1}: unknown table; allowed: [cluster], [workers], [data], '
        "[model], [training], [mpls], [network], [checkpoint], [metrics], [logging]",
    ),
    "a misspelt key that is then missing": (
        edited('address = "127.0.0.1:5701"', 'adress = "127.0.0.1:5701"'),
        '[[workers]] id 1: adress = "127.0.0.1:5701": unknown key; allowed: id, name, '
        "address, peers, speed, transport, grpc_port, ssh, left (and 1 more)",
    ),
    "port 99999": (
        edited("5701", "99999"),
        '[[workers]] id 1: address = "127.0.0.1:99999": must be host:port with a port from 0 '
        "to 65535",
    ),
    "no port": (
        edited(":5701", ""),
        '[[workers]] id 1: address = "127.0.0.1": must be host:port with a port from 0 to 65535',
    ),
    "an address that is none": (
        edited("127.0.0.1:5701", "127.0.0.300:5701"),
        '[[workers]] id 1: address = "127.0.0.300:5701": must be host:port with a host name, '
        "an IPv4 or an [IPv6] address",
    ),
    "the address that is any": (
        edited("127.0.0.1:5701", "0.0.0.0:5701"),
        '[[workers]] id 1: address = "0.0.0.0:5701": must be an address that peers can connect to',
    ),
    "an address that two workers have": (
        edited("5701", "5702"),
        '[[workers]] id 2: address = "127.0.0.1:5702": worker 1 has it already',
    ),
    "a name that two workers have": (
        edited("id = 1", 'id = 1\nname = "w2"'),
        '[[workers]] id 2: name = "w2": worker 1 has it already',
    ),
    "a worker without an id": (edited("id = 1\n", ""), "[[workers]] number 2: id is missing"),
    "a duplicate id": (
        edited("id = 1", "id = 2"),
        "[[workers]] id = 2: ids must be 0 to 2, each once; who leaves keeps its table, "
        "with left = true",
    ),
    "an id with a gap before it": (
        edited("id = 2", "id = 3"),
        "[[workers]] id = 3: ids must be 0 to 2, each once; who leaves keeps its table, "
        "with left = true",
    ),
    "a peer that does not exist": (
        edited("id = 1", "id = 1\npeers = [0, 7]", LISTED),
        "[[workers]] id 1: peers = [0, 7]: there is no worker 7; ids are 0 to 2",
    ),
    "itself as peer": (
        edited("id = 1", "id = 1\npeers = [0, 1]", LISTED),
        "[[workers]] id 1: peers = [0, 1]: a worker cannot be its own peer",
    ),
    "a peer twice": (
        edited("id = 1", "id = 1\npeers = [0, 0]", LISTED),
        "[[workers]] id 1: peers = [0, 0]: worker 0 is in it twice",
    ),
    "peers beside a topology": (
        edited("id = 1", "id = 1\npeers = [0]"),
        '[[workers]] id 1: peers = [0]: needs [cluster] topology = "listed", not "ring"',
    ),
    "a topology that is unknown": (
        GOOD + '[cluster]\ntopology = "torus"\n',
        '[cluster] topology = "torus": must be one of ring, full, star, random, k-regular, '
        "small-world, exponential, listed",
    ),
    "a topology that cannot be": (
        GOOD + '[cluster]\ntopology = "k-regular"\n',
        '[cluster] topology = "k-regular": degree 4 needs at least 5 workers, not 3',
    ),
    "a negative bandwidth": (
        GOOD + '[network]\nemulate = "-5MB"\n',
        '[network] emulate: "-5MB" is no bandwidth; good ones: 10MB, 10-15MB, 80Mbit, 1.5MiB '
        "(per second)",
    ),
    "a negative bandwidth as a number": (
        GOOD + "[network]\nemulate = -5\n",
        "[network] emulate = -5: must be text such as 10MB, 10-15MB, 80Mbit, 1.5MiB (per second)",
    ),
    "a bandwidth that runs backwards": (
        GOOD + '[network]\nemulate = "15-10MB"\n',
        '[network] emulate: bandwidth "15-10MB" runs backwards; good ones: 10MB, 10-15MB, '
        "80Mbit, 1.5MiB (per second)",
    ),
    "a range where one rate is meant": (
        GOOD + '[network]\nprior_bw = "10-15MB"\n',
        '[network] prior_bw = "10-15MB": must be one rate, not a range',
    ),
    "tau1 + tau2 above 1": (GOOD + "[mpls]\ntau1 = 0.7\n", "[mpls] tau1 + tau2 = 1.2: must be 1"),
    "tau1 above 1": (
        GOOD + "[mpls]\ntau1 = 1.5\ntau2 = -0.5\n",
        "[mpls] tau1 = 1.5: must be less than or equal to 1 (and 1 more)",
    ),
    "a strategy that is unknown": (
        GOOD + '[mpls]\nstrategy = "best"\n',
        '[mpls] strategy = "best": must be one of mpls, mpls-peer, mpls-layer, rand-mpls, '
        "mpls-sampled, appg, netmax, gossip, local, or your own as package.module:Class",
    ),
    "an own strategy that is not there": (
        GOOD + '[mpls]\nstrategy = "no.such:Thing"\n',
        "strategy = 'no.such:Thing': cannot be imported and called with PlanSettings "
        "(ModuleNotFoundError: No module named 'no')",
    ),
    "a model that is unknown": (
        GOOD + '[model]\nname = "alexnet"\n',
        '[model] name = "alexnet": must be one of simple-mlp, lenet5, nin, resnet18, or your '
        "own as package.module:factory",
    ),
    "an own model that is not there": (
        GOOD + '[model]\nname = "no.such:thing"\n',
        "model 'no.such:thing' cannot be imported: No module named 'no'",
    ),
    "an own model that is none": (
        GOOD + '[model]\nname = "math:sqrt"\n',
        "model 'math:sqrt' fails on inputs (1, 28, 28): TypeError: math.sqrt() takes no "
        "keyword arguments",
    ),
    "a data set that is unknown": (
        GOOD + '[data]\ndataset = "imagenet"\n',
        '[data] dataset = "imagenet": must be one of digits, mnist, fashion-mnist, cifar10, '
        "cifar100",
    ),
    "a data folder that is missing": (
        GOOD + '[data]\ndataset = "mnist"\nroot = "/no/such"\n',
        "data.root '/no/such' is no folder; name the one that has mnist "
        "(train-images-idx3-ubyte[.gz] etc. in MNIST/raw or the folder itself), or create it "
        "for the download",
    ),
    "a partition that is unknown": (
        GOOD + '[data]\npartition = "none"\n',
        '[data] partition = "none": must be one of iid, dirichlet, main-label, shards, classes',
    ),
    "an empty partition": (
        GOOD + "[data]\nmin_samples = 9000\n",
        "min_samples = 9000 is unreachable: 3 workers share 8000 samples, 2666 each",
    ),
    "classes without a worker": (
        GOOD + '[data]\npartition = "classes"\nclasses = [[0, 1], [2, 3], [4, 5]]\n',
        "classes leaves label 6 without a worker",
    ),
    "classes for too few workers": (
        GOOD + '[data]\npartition = "classes"\nclasses = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]\n',
        "[data] classes = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]: must be 3 lists of class "
        "numbers, one for each worker",
    ),
    "classes that are not asked for": (
        GOOD + "[data]\nclasses = [[0], [1], [2]]\n",
        '[data] classes: needs partition = "classes"',
    ),
    "a number below its limit": (
        GOOD + "[training]\nlr = -0.1\n",
        "[training] lr = -0.1: must be greater than 0",
    ),
    "no rounds": (
        GOOD + "[training]\nrounds = 0\n",
        "[training] rounds = 0: must be greater than or equal to 1",
    ),
    "text where a number is meant": (
        GOOD + '[training]\nrounds = "200"\n',
        '[training] rounds = "200": must be a valid integer',
    ),
    "yes where true is meant": (
        GOOD + '[data]\nbalanced = "yes"\n',
        '[data] balanced = "yes": must be a valid boolean',
    ),
    "a fraction where a whole number is meant": (
        GOOD + "[training]\nbatch_size = 32.5\n",
        "[training] batch_size = 32.5: must be a valid integer",
    ),
    "not a number": (
        GOOD + "[training]\nlr = nan\n",
        "[training] lr = NaN: must be a finite number",
    ),
    "a value where a table is meant": ("training = 5\n" + GOOD, "training = 5: must be a table"),
    "workers as one table": (
        "[workers]\nid = 0\n",
        'workers = {"id": 0}: must be written [[workers]], one for each worker',
    ),
    "a device that is none": (
        GOOD + '[training]\ndevice = "gpu"\n',
        '[training] device = "gpu": must be cpu, cuda or cuda:N',
    ),
    "a list that is not closed": (GOOD + "[training]\na = [\n", "line 13: not TOML: Invalid value"),
    "a key given twice": (
        GOOD + "[training]\nlr = 0.1\nlr = 0.2\n",
        "line 14: not TOML: Cannot overwrite a value",
    ),
    "a line that is no TOML": (
        edited("id = 1", "id is 1"),
        "line 6: not TOML: Expected '=' after a key in a key/value pair",
    ),
    "a binary file": (bytes(range(256)), "not a text file; a cluster file is TOML in UTF-8"),
    "an empty file": ("", "the file is empty; `mpls generate` writes a complete one"),
    "a file with no workers": (
        '[cluster]\nname = "alone"\n',
        "there is no [[workers]] table; a cluster needs one for each worker",
    ),
    "a list of no workers": (
        "workers = []\n",
        "there is no [[workers]] table; a cluster needs one for each worker",
    ),
    "two mistakes": (
        GOOD + "[training]\nlr = 0.0\nrounds = 0\n",
        "[training] rounds = 0: must be greater than or equal to 1 (and 1 more)",
    ),
}
