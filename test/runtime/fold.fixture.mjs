/** Sums an output over the runs; `finish` hands out a typed array. */
export const sum = ({ output }) => {
  let total = new Float64Array(0);
  const order = [];
  return {
    update(outputs, feeds, index) {
      const x = outputs[output].data;
      if (total.length < x.length) total = new Float64Array(x.length);
      for (let i = 0; i < x.length; i++) total[i] += x[i];
      order.push([index, feeds.x.data[0]]);
    },
    finish: () => ({ total, order }),
  };
};
export const failing = () => ({
  update() {
    throw new Error("the fold fails");
  },
  finish: () => undefined,
});
