"""An index of embeddings: kept on disk, added to, searched exactly, handed to other engines.

`texts` keeps many strings in two arrays, `values` says what ids and metadata may be, `segment` is
what one addition brought and `adding` makes it, `held` is all of them, `compacting` drops removed
rows, `filters` says which rows a search looks at, `folder` what lies on disk; `engines` makes other
libraries' indexes of the same rows, `databases` tables and collections of them.
"""

from drcl.index.index import Index, SearchResult

__all__ = ["Index", "SearchResult"]
__dir__ = __all__.copy
