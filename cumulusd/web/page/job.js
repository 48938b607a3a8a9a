// One job's page.
import {h, fill} from "./dom.js";

export const jobView = {
  mount(root, context, {jobId}) {
    const end = new AbortController();
    context.connection.call("cumulus.job.get", {job_id: jobId}, {signal: end.signal}).then(
      (job) => fill(root, h("h1", {}, job.name || job.job_id), h("p", {}, job.status)),
      (error) => error.code !== "aborted" && fill(root, h("p", {role: "alert"}, error.message)),
    );
    return () => end.abort();
  },
};
