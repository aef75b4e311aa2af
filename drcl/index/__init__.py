"""An index of embeddings: kept on disk, added to, searched exactly, handed to other engines.

`texts` keeps many strings in two arrays, `segment` what one addition brought, `folder` what lies on
disk, `engines` other libraries' indexes of the same rows, `results` the page of a search.
"""

from drcl.index.index import Index, SearchResult

__all__ = ["Index", "SearchResult"]
__dir__ = __all__.copy
