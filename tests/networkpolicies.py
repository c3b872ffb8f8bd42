"""What NetworkPolicies let through: a small judge of who may open a connection to whom, by the rules of networking.k8s.io/v1."""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod by its labels and its namespace's name, or an address outside."""

    labels: dict = field(default_factory=dict)
    namespace: str = "tunefleet"
    address: str = ""


def allowed(policies, source, target, port, protocol="TCP"):
    """Whether a connection opens: the source's side lets it out and the target's lets it in."""
    return _side(policies, source, target, port, protocol, "Egress") and _side(policies, target, source, port, protocol, "Ingress")


def _side(policies, mine, other, port, protocol, direction):
    if mine.address or mine.namespace != "tunefleet":
        return True  # no policy of ours rules there
    about = [p["spec"] for p in policies if direction in p["spec"]["policyTypes"] and selects(p["spec"]["podSelector"], mine.labels)]
    rules = [rule for spec in about for rule in spec.get(direction.lower(), [])]
    return not about or any(_matches(rule, other, port, protocol, "to" if direction == "Egress" else "from") for rule in rules)


def _matches(rule, other, port, protocol, side):
    ports = rule.get("ports")
    if ports and not any(entry.get("protocol", "TCP") == protocol and entry["port"] == port for entry in ports):
        return False
    return side not in rule or any(_peer(entry, other) for entry in rule[side])


def _peer(entry, other):
    if "ipBlock" in entry:
        block = entry["ipBlock"]
        inside = other.address and ip_address(other.address) in ip_network(block["cidr"])
        return bool(inside) and not any(ip_address(other.address) in ip_network(part) for part in block.get("except", []))
    if other.address:
        return False
    namespace = {"kubernetes.io/metadata.name": other.namespace}
    here = selects(entry["namespaceSelector"], namespace) if "namespaceSelector" in entry else other.namespace == "tunefleet"
    return here and selects(entry.get("podSelector", {}), other.labels)


def selects(selector, labels):
    """Whether a label selector takes these labels."""
    equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return equal and all(_expression(e, labels) for e in selector.get("matchExpressions", []))


def _expression(expression, labels):
    has = expression["key"] in labels
    there = labels.get(expression["key"]) in expression.get("values", [])
    return {"In": has and there, "NotIn": not there, "Exists": has, "DoesNotExist": not has}[expression["operator"]]
