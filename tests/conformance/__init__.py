"""Whether nablax agrees with nested AD on every public function of JAX that takes an array.

`public` lists the functions, `calls_*` say how each is called, `arguments` makes what they are called with, `judge`
compares, `layers` adds the layers that the tests of folx cover, and `page` writes docs/conformance.md.
"""
