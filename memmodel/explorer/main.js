// The page's one global, beside `ready`: what a reader's console and the tests use.

Object.assign(window.memmodel, {evaluate, frontier, fromFragment, toFragment, defaults: DEFAULTS});
start();
