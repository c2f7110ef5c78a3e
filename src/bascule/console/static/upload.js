// Sends the files of a form one by one as they are, with a bar of progress, then the form itself with
// their ids. A form says where: <input type="file" data-upload="/score/files" data-for="file">.
"use strict";

document.addEventListener("submit", (event) => {
  const form = event.target;
  const waiting = [...form.querySelectorAll("input[type=file][data-upload]")].filter(
    (input) => input.files.length && !input.dataset.sent
  );
  if (!waiting.length) {
    const said = form.dataset.busy;
    if (said) tell(form, said + " …");
    return;
  }
  event.preventDefault();
  const submitter = event.submitter;
  lock(form, true);
  waiting
    .reduce((before, input) => before.then(() => send(form, input)), Promise.resolve())
    .then(() => {
      lock(form, false);
      form.requestSubmit(submitter || undefined);
    })
    .catch((problem) => {
      lock(form, false);
      tell(form, problem.message, true);
    });
});

document.addEventListener("change", (event) => {
  if (event.target.dataset && event.target.dataset.upload) delete event.target.dataset.sent;
});

function send(form, input) {
  const file = input.files[0];
  const most = Number(input.dataset.most || 0);
  if (most && file.size > most) {
    return Promise.reject(new Error(`${file.name} is larger than ${Math.floor(most / 1e6)} MB.`));
  }
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", input.dataset.upload + "?name=" + encodeURIComponent(file.name));
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("X-CSRF-Token", form.querySelector("input[name=csrf]").value);
    request.upload.onprogress = (progress) => {
      const percent = progress.total ? Math.floor((100 * progress.loaded) / progress.total) : 0;
      tell(form, `Sending ${file.name}: ${percent} %`);
    };
    request.onerror = () => reject(new Error("The server cannot be reached. Try again."));
    request.onload = () => {
      let said = {};
      try {
        said = JSON.parse(request.responseText);
      } catch {
        said = {};
      }
      if (request.status !== 200) {
        const hint = said.hint ? ` (${said.hint})` : "";
        reject(new Error((said.detail || `The file was refused: ${request.status}`) + hint));
        return;
      }
      form.querySelector(`input[name=${input.dataset.for}]`).value = said.id;
      input.dataset.sent = said.id;
      resolve();
    };
    request.send(file);
  });
}

function lock(form, is_locked) {
  form.setAttribute("aria-busy", String(is_locked));
  for (const button of form.querySelectorAll("button")) button.disabled = is_locked;
}

function tell(form, text, is_bad = false) {
  let line = form.querySelector(".sending");
  if (!line) {
    line = document.createElement("p");
    form.append(line);
  }
  line.className = is_bad ? "sending flash bad" : "sending note";
  line.setAttribute("role", is_bad ? "alert" : "status");
  line.textContent = text;
}
