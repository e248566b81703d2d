// The tables are packed into the page; once unpacked, `memmodel` computes and the page shows.

let TABLES;

async function unpacked(base64) {
  if (typeof DecompressionStream === "undefined") {
    throw new StateError("this browser is too old for the page: it needs one of 2023 or later");
  }
  const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

async function main() {
  try {
    TABLES = await unpacked(PACKED);
    start();
  } catch (error) {
    byId("verdict").className = "wrong";
    byId("verdict").textContent = error.message;
    if (!(error instanceof StateError)) throw error;
  }
}

window.memmodel = {
  evaluate,
  frontier,
  roofline: rooflineOf,
  problems,
  fromFragment,
  toFragment,
  defaults: DEFAULTS,
  ready: main(),
};
