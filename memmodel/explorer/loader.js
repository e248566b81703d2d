// Unpacks the page's script and runs it. `memmodel.ready` is fulfilled when the page stands.

// Base 85: five signs are four bytes, the first the highest.
function bytesOf(text) {
  const view = new DataView(new ArrayBuffer((text.length / 5) * 4));
  for (let i = 0; i < text.length; i += 5) {
    view.setUint32((i / 5) * 4, [...text.slice(i, i + 5)].reduce((sum, sign) => sum * 85 + SIGNS.indexOf(sign), 0));
  }
  return view.buffer;
}

async function load() {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser is too old for the page: it needs one of 2023 or later");
  }
  const unpacked = new Blob([bytesOf(PACKED).slice(0, LENGTH)]).stream().pipeThrough(new DecompressionStream("gzip"));
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
