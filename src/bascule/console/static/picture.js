// Writes the pixels of a chosen picture into the row as JSON, in the size that the model takes.
"use strict";

document.addEventListener("change", async (event) => {
  const { picture, height, width, channels, divisor } = event.target.dataset;
  if (!picture || !event.target.files.length) return;
  const input = event.target;
  try {
    const image = await createImageBitmap(input.files[0]);
    const canvas = new OffscreenCanvas(Number(width), Number(height));
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const pixels = [];
    for (let at = 0; at < data.length; at += 4) {
      const [red, green, blue] = data.subarray(at, at + 3);
      if (channels === "3") pixels.push(red, green, blue);
      else pixels.push(Math.round(0.299 * red + 0.587 * green + 0.114 * blue)); // ITU-R BT.601
    }
    const base64 = btoa(pixels.map((pixel) => String.fromCharCode(pixel)).join(""));
    const row = { [picture]: { pixels: base64, divisor: Number(divisor) } };
    input.form.querySelector("textarea[name=row]").value = JSON.stringify(row);
    input.setCustomValidity("");
  } catch {
    input.setCustomValidity("This file is no picture that the browser can read.");
    input.reportValidity();
  }
});
