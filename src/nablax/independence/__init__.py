"""Whether the samples of a batch-wise model are independent: followed through two traces of it, primitive by primitive.

`values` says what may be known of a value, `twins` lays the traces side by side, `moves`, `arithmetic`, `indexing` and
`calls` hold the rules, and `proof` applies them.
"""

from nablax.independence.proof import Proof
from nablax.independence.twins import MismatchError, Twins
from nablax.independence.values import SHARED, Mixed, Reason, Samples, Shared, Value

__all__ = ["SHARED", "MismatchError", "Mixed", "Proof", "Reason", "Samples", "Shared", "Twins", "Value"]
