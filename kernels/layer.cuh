// What Act does to N neighbouring elements of a hidden layer in the forward and in the backward pass.
// With DROPOUT a = mask * Act(z) / (1 - rate), where the mask has a byte for each element.
//
// The mask's random words are Philox's of (element / 4, layer, step). An element has word (element % 4), and is kept if
// that is >= round(rate * 2^32).

#ifdef DROPOUT
// A layer's dropout in one network and step.
struct Dropping {
    double rate;
    unsigned long long seed;
    Index step;
    int layer;

    __device__ __forceinline__ unsigned long long threshold() const { return rint(rate * 4294967296.0); }
    __device__ __forceinline__ A scale() const { return 1.0 / (1.0 - rate); }
    __device__ __forceinline__ Philox words(Index quad) const { return Philox(quad, layer, step, seed); }
};
#endif

// a from z; `place` is the number of the first element among the layer's (rows, n).
template <int N>
__device__ __forceinline__ Pack<A, N> activated(const Pack<A, N>& z
#ifdef DROPOUT
                                                , Pack<unsigned char, N>& kept, const Dropping& dropping, Index place
#endif
) {
    Pack<A, N> a;
#ifdef DROPOUT
    const unsigned long long threshold = dropping.threshold();
    const A scale = dropping.scale();
    Philox random = dropping.words(place / 4);
#endif
    for (int i = 0; i < N; i++) {
        a.x[i] = Act::f(z.x[i]);
#ifdef DROPOUT
        if (i > 0 && (place + i) % 4 == 0) random = dropping.words((place + i) / 4);
        kept.x[i] = random.word[(place + i) % 4] >= threshold;
        a.x[i] *= kept.x[i] ? scale : A(0);
#endif
    }
    return a;
}

// BP2: the gradient with respect to a becomes delta, that with respect to z; `from` is a or z, whichever Act needs.
template <int N>
__device__ __forceinline__ void differentiate(Pack<A, N>& grad, const Pack<T, N>& from
#ifdef DROPOUT
                                              , const Pack<unsigned char, N>& kept, A scale
#endif
) {
    for (int i = 0; i < N; i++) {
        A x = convert<A>(from.x[i]);
#ifdef DROPOUT
        grad.x[i] *= kept.x[i] ? scale : A(0);
        if (Act::from_a) x /= scale;  // what is kept is the scaled activation
#endif
        grad.x[i] *= Act::derivative(x);
    }
}
