// Unpacks the page's script and runs it. `memmodel.ready` is fulfilled when the page stands.

async function load() {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser is too old for the page: it needs one of 2023 or later");
  }
  const bytes = Uint8Array.from(atob(PACKED), (sign) => sign.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const source = await new Response(unpacked, {headers: {"content-type": "text/javascript"}}).blob();
  const script = document.createElement("script");
  script.src = URL.createObjectURL(source);
  await new Promise((resolve, reject) => {
    Object.assign(script, {onload: resolve, onerror: () => reject(new Error("the page's script does not load"))});
    document.head.append(script);
  });
}

function failed(error) {
  Object.assign(document.getElementById("verdict"), {className: "wrong", textContent: error.message});
  throw error;
}

window.memmodel = {ready: load().catch(failed)};
